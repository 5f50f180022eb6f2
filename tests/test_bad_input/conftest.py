import pytest


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leaves out what takes most of the time of so small a run.

    MMEngine asks the machine's compilers, formats the config's text five
    times and collects garbage for each dataset.
    """
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    text = property(lambda config: str(config._cfg_dict))
    monkeypatch.setattr('mmengine.config.Config.pretty_text', text)
    monkeypatch.setattr('gc.collect', lambda *_: 0)
    # run_tool sets it for the rest of the process.
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
