"""What holds of every page of a study that is written from its results."""

from tests import test_headlines, test_result_pages


def check_page(folder):
    """The checks of the committed pages, on a page in any folder."""
    test_headlines.test_a_page_begins_with_a_sentence_a_table_of_short_cells_and_a_figure(folder / "README.md")
    test_result_pages.test_every_figure_of_the_prose_is_one_of_the_files(str(folder))
    test_result_pages.test_no_table_is_typed_by_hand(str(folder / "README.md"))
