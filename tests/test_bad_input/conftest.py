import pytest


@pytest.fixture(autouse=True, scope='module')
def quick():
    """Leaves out what takes most of the time of so small a run.

    MMEngine asks the machine's compilers, formats the config's text five
    times and collects garbage for each dataset.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        text = property(lambda config: str(config._cfg_dict))
        patch.setattr('mmengine.config.Config.pretty_text', text)
        patch.setattr('gc.collect', lambda *_: 0)
        # run_tool sets it for the rest of the process.
        patch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
        yield
