"What holds for every test."


def pytest_collection_modifyitems(items):
    "The longest file goes first: whoever takes it is busy until the others have finished all the rest."
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")
