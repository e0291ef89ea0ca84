"""Words and requests of prompts that are drawn, and the words of answers that follow them."""

from __future__ import annotations

REQUESTS = (
    "Write a short story about {}.",
    "Describe {} to someone who has never seen it.",
    "Write a letter to a friend about {}.",
    "Tell me what you think about {}.",
    "Write a diary entry about {}.",
    "Explain why {} matters to some people.",
    "Write a scene of a play about {}.",
    "Give advice to somebody who writes about {}.",
)
TOPICS = (
    *(
        "a lighthouse",
        "a lost key",
        "the first day at school",
        "autumn",
        "bread",
        "a long train journey",
        "a quiet lake",
    ),
    *(
        "an old piano",
        "the night sky",
        "a market in the morning",
        "a broken clock",
        "learning to swim",
        "rain",
        "a library",
    ),
    *("a garden in winter", "moving to a new town", "a mountain path", "tea", "a football match", "an empty theatre"),
    *("a family dinner", "a bridge over a river", "the smell of coffee", "a forgotten letter", "a small boat", "snow"),
    *("a birthday party", "an early flight", "a village festival", "a walk in the fog", "a repair shop", "the sea"),
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LATIN = "latin"
WORDS = {  # by script
    LATIN: _words(
        "apple arrow autumn basket bell bird blanket boat book bottle box branch bread bridge brother bucket butter candle "
        "carpet castle chair cherry circle city clock cloud coat corner cotton cup daughter desk dinner doctor dog door dream "
        "evening eye farm father feather field finger fire fish floor flower forest fork friend garden gate glass gold grass "
        "hammer hand harbour hat hill honey horse hour house ink island jacket journey juice key kitchen knife ladder lake "
        "lamp leaf lemon letter lion lunch map market meadow milk minute mirror money moon morning mother mountain mouse music "
        "needle night ocean onion orange paper park path pencil piano picture pillow plate pocket poem pond queen rain ribbon "
        "river road roof room rose salt school sea shadow ship shirt shoe silver sister sky smoke snow song soup spoon spring "
        "square star station stone storm story street sugar summer sun table teacher tent thunder ticket tower town train tree "
        "uncle valley village violin voice wagon wall water wheel wind window winter wolf wood yard zebra"
    ),
    "cyrillic": _words("дом река книга вода хлеб снег лес утро вечер окно друг город песня море гора стол рука ночь"),
    "greek": _words("σπίτι βιβλίο νερό ψωμί θάλασσα βουνό πόλη φίλος δρόμος ήλιος νύχτα μέρα χέρι δέντρο τραγούδι"),
    "hebrew": _words("בית ספר מים לחם שלג יער בוקר ערב חלון חבר עיר שיר הר שולחן יד לילה דרך שמש"),
    "arabic": _words("بيت كتاب ماء خبز ثلج غابة صباح مساء نافذة صديق مدينة بحر جبل طاولة يد ليل طريق شمس"),
    "devanagari": _words("घर नदी किताब पानी रोटी जंगल सुबह शाम खिड़की दोस्त शहर गीत समुद्र पहाड़ मेज हाथ रात रास्ता"),
    "hangul": _words("집 강 책 물 빵 눈 숲 아침 저녁 창문 친구 도시 노래 바다 산 책상 손 밤 길 해"),
}
STARTS = ("In short", "To begin with", "Let me think", "Dear reader", "Once upon a time", "Here is my answer")
ENDS = ("That is all.", "I hope this helps!", "Thank you for reading.", "And so it goes.", "What do you think?")
MARKERS = ("Section", "Part", "Chapter", "Step")
KEYS = ("title", "text", "topic", "summary", "mood", "place", "author", "notes")
RARE = ("b", "d", "f", "g", "k", "m", "p", "v", "w", "y")  # letters that an answer can do without, or use on purpose
