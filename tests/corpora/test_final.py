"""Which answers of a completion are the known one: by value, where benchmarks look for it, and never an empty one."""

import pytest

from limbeck.corpora.tasks.final import matches_after, matches_final, stated_at


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("The answer is 42.", "42", True),
        ("The answer is **$1,042.00**", "1042", True),
        ("6 times 7 makes 42", "42", True),
        ("42 is 6 times 7", "42", False),  # the last number of a text that marks none
        ("She earns 18 dollars in 3 days.\n#### 18", "3 * 6 = 18\n#### 18", True),  # GSM8K, whose answers are worked
        (r"Thus \boxed{\frac{1}{2}}, not \boxed{\frac{1}{3}", r"\frac{1}{2}", False),  # the last box is open
        (r"Not \boxed{3}: \boxed{\frac{1}{2}}", r"\frac{1}{2}", True),
        ("Answer: 18, since 9 * 2 is 18 and 9 is 3 * 3", "18", True),
        ("Answer: 3/4", "3", False),
        ("Answer: 3/4", "3/4", True),
        ("the answer is Paris", "paris.", True),
        ("Paris", "Paris", True),
        ("It is surely Paris", "Paris", False),  # another answer than a number is marked, or is the whole text
        ("-3", "3", False),
        ("8 - 3", "3", True),
        ("12apples", "12", False),
        (r"\boxed{\frac{3}{4}}", "3", False),  # a box counts as a whole
        (r"\boxed{3\sqrt{2}}", "3", False),
        (r"\boxed{x=3, y=4}", "3", False),
        (r"\boxed{3, 4}", "3", False),
        (r"\boxed{x = 3}", "3", True),
        (r"\boxed{\$1,042.50}", "1042.5", True),
        (r"\boxed{12\text{ cm}^2}", "12", True),
        (r"\boxed{90^\circ}", "90", True),
        (r"\boxed{3^2}", "3", False),
        (r"\boxed{1{,}042}", "1042", True),
        ("9*2=18", "18", True),
        ("The answer is 3 1/2", "3", False),
        (r"\boxed{3 apples}", "3", True),
        (r"The answer is $\frac{3}{4}$", "3", False),
        (r"The answer is $3\sqrt{2}$", "3", False),
        (r"The answer is \(3\).", "3", True),
        ("The answer is 3.5kg", "3", False),
        ("The answer is 3.5kg of 3 apples", "3", False),
        ("The answer is 3.5 kg", "3.5", True),
        ("The answer is 3%", "3", True),
        ("x = \N{MINUS SIGN}3", "3", False),
        ("x = \N{MINUS SIGN}3", "-3", True),
        ("10^-5", "10", False),
        ("10^-5", "5", False),
        ("7:30", "7", False),
        ("7:30", "30", False),
        ("answer is 1,2", "12", False),
        ("answer is 1,2", "1", False),
        ("answer is 12,345, surely", "12345", True),
        ("The answer is .5", "0.5", True),
        ("one half, .5", ".5", True),
        ("Answer: 3-4", "3", False),
        ("", "4", False),
        (" \n", "4", False),
        ("####", "4", False),
        (f"{'9' * 5000}", "9", False),
    ],
)
def test_a_final_answer_is_found_where_it_is_marked(text, answer, found):
    assert matches_final(text, [answer]) is found
    assert matches_final(text, ["no such", answer]) is found


@pytest.mark.parametrize(
    ("text", "answer", "place"),
    [
        ("The total is 1,200. So", "1200", 13),
        ("3 times 4 =$12.00 in all", "12", 12),
        ("It does. Yes, since it rains", "yes", 9),
        ("The city is Paris.", "paris", 12),
        ("in New\nYork, surely", "new york", 3),
        ("it is 45 or 4.5", "4", None),
        ("one half is .5", "0.5", 12),
        ("5 of them", ".5", None),
        ("yesterday", "yes", None),
        ("7-2=5", "2", 2),  # a part of something else may be copied too
        ("nothing", "...", None),
    ],
)
def test_an_answer_is_stated_without_case_and_by_value(text, answer, place):
    assert stated_at(text, answer) == place


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("The town by the Seine. So: Paris", "Paris", True),
        ("The town by the Seine. So: Lyon", "Paris", False),
        ("3 and 9. So: 12 of 40", "12", True),
        ("So: 3, or so: no. So: 12", "12", True),  # the last mark, as of the others
        ("The answer is 12", "12", True),
        ("So: ", "12", False),
        (r"So: \boxed{12}", "12", True),
    ],
)
def test_an_answer_stands_after_a_mark_of_ones_own(text, answer, found):
    assert matches_after("So:", text, [answer]) is found
