"""Profiles, runs and notebook parameters: what is accepted, and how a refusal reads."""

import os
import shutil

import pytest
import yaml

from covid3d.run import profile as config
from covid3d.run.errors import ConfigError
from covid3d.run.profile import PROFILES, load_profile, open_run, profile_names


def edited(tmp_path, change):
    content = yaml.safe_load((PROFILES / "smoke.yaml").read_text())
    change(content)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_is_valid_and_carries_its_name(name):
    assert load_profile(name).name == name


def test_the_three_profiles_are_there():
    assert profile_names() == ["paper", "smoke", "standard"]


def test_smoke_and_standard_keep_the_promised_minutes():
    assert load_profile("smoke").minutes <= 3
    assert load_profile("standard").minutes <= 25


def test_standard_and_paper_take_the_whole_cohort_and_all_windows():
    for name in ("standard", "paper"):
        profile = load_profile(name)
        assert profile.cohort.development_per_class is None
        assert profile.windows.count == 100
        assert profile.training.folds == 10


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'standard'"):
        load_profile("standart")


def test_the_path_of_a_file_without_its_ending_is_no_name(tmp_path):
    with pytest.raises(ConfigError, match="there is no profile"):
        load_profile(edited(tmp_path, lambda content: None).removesuffix(".yaml"))


def test_an_unknown_key_is_refused_with_its_path_and_the_nearest(tmp_path):
    path = edited(tmp_path, lambda content: content["training"].update(epoch=3))
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown key 'training\.epoch'.*'epochs'"):
        load_profile(path)


def test_a_misspelt_key_is_named_rather_than_the_one_it_was_meant_for(tmp_path):
    path = edited(tmp_path, lambda content: content["training"].update(epoch=content["training"].pop("epochs")))
    with pytest.raises(ConfigError, match=r"unknown key 'training\.epoch'. Did you mean 'epochs'"):
        load_profile(path)


def test_a_missing_key_is_named(tmp_path):
    path = edited(tmp_path, lambda content: content["model"].pop("width"))
    with pytest.raises(ConfigError, match=r"'model\.width' is missing"):
        load_profile(path)


@pytest.mark.parametrize(
    ("key", "value"), [("folds", "ten"), ("folds", 2.5), ("folds", 1), ("epochs", True), ("learning_rate", 0)]
)
def test_a_value_of_the_wrong_type_or_size_is_refused(tmp_path, key, value):
    path = edited(tmp_path, lambda content: content["training"].update({key: value}))
    with pytest.raises(ConfigError, match=f"training.{key}"):
        load_profile(path)


def test_pretrained_weights_at_another_width_are_refused_by_key(tmp_path):
    path = edited(tmp_path, lambda content: content["model"].update(pretrained=True, width=0.5))
    with pytest.raises(ConfigError, match=r"key 'model\.pretrained' is True. It should be false: .* width"):
        load_profile(path)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not valid YAML"):
        load_profile(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize("content", [b"name: \xff\xfe", b"- one\n- two\n", b"", b"1: one\n", b"name: 2020-13-45"])
def test_a_file_that_is_no_table_of_keys_is_named(tmp_path, content):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^bad\.yaml: "):
        load_profile(str(tmp_path / "bad.yaml"))


def test_a_damaged_config_of_a_run_is_one_message_with_a_cure(make_run):
    make_run("hurt").path("config.yaml").write_bytes(b"\x00\xff: [")
    with pytest.raises(ConfigError, match=r"runs/hurt/config\.yaml: .*make clean-run RUN=hurt"):
        open_run("hurt")


@pytest.mark.parametrize("cell", ["phantom:7", '"phantom:7"', " phantom:7"])
def test_an_order_of_simulated_scans_is_known_however_its_cells_are_written(root, make_run, cell):
    (root / "form.csv").write_text(f"scan_id,source\nA1,{cell}\n")
    assert make_run("ordered", manifest="form.csv").is_phantom


def test_a_new_run_writes_its_config_and_opens_again(make_run):
    made = make_run("first", seed=7, world="null")
    again = open_run("first")
    assert again.config == made.config
    assert (again.seed, again.world) == (7, "null")


def test_a_run_refuses_other_options_than_its_own(make_run):
    make_run("first", seed=7)
    with pytest.raises(ConfigError, match=r"seed = 7, not 8.*clean-run RUN=first"):
        open_run("first", seed=8)


def test_a_run_without_profile_takes_the_profile_of_its_name(root):
    assert open_run("smoke").profile.name == "smoke"
    with pytest.raises(ConfigError, match="there is no run 'somke'"):
        open_run("somke")


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a b", "a/b", "x" * 65])
def test_a_name_that_is_no_folder_name_is_refused(root, name):
    with pytest.raises(ConfigError, match="no name for a run"):
        open_run(name, profile="smoke")


@pytest.mark.parametrize("options", [{"world": "nul"}, {"seed": -1}, {"seed": "1"}, {"sed": 1}, {"profile": "big"}])
def test_wrong_options_create_nothing(root, options):
    with pytest.raises(ConfigError):
        open_run("new", **{"profile": "smoke", **options})
    assert not (root / "runs" / "new" / "config.yaml").exists()


def test_a_manifest_that_does_not_exist_is_named_and_nothing_is_created(root):
    with pytest.raises(ConfigError, match=r"nowhere\.csv: the manifest does not exist"):
        open_run("mine", profile="smoke", manifest="nowhere.csv")
    assert not (root / "runs" / "mine").exists()


def test_the_embedded_cohort_is_simulated_and_a_site_is_not(root, make_run):
    (root / "form.csv").write_text("scan_id,source\nA1,scans/a1\n")
    assert make_run("a").is_phantom
    (root / "given.safetensors").touch()
    site = make_run("b", manifest="form.csv", weights="given.safetensors")
    assert site.is_site
    assert not site.is_phantom


def test_simulated_scans_given_as_a_sites_own_are_known_by_their_headers(root, make_run):
    (root / "form.csv").write_text("scan_id,source\nA1,scans/a1\n")
    run = make_run("c", manifest="form.csv")
    run.intake.write_text("scan_id,manufacturer\nA1,COVID3D phantom Scanner A\n")
    assert run.is_phantom


def test_the_repository_root_is_found_from_a_folder_below(tmp_path, monkeypatch):
    monkeypatch.delenv("COVID3D_ROOT", raising=False)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    shutil.copyfile(config.DATA / "data_manifest.csv", tmp_path / "data_manifest.csv")
    monkeypatch.chdir(below)
    assert config.repository_root() == tmp_path


def test_the_path_of_a_manifest_outside_the_repository_is_kept_apart(root, make_run, tmp_path_factory):
    """A path can name a hospital, a ward or a person; a run that is handed on must not."""
    away = tmp_path_factory.mktemp("CANARY") / "manifest.csv"
    away.write_text("scan_id\n")
    run = make_run("mine", manifest=str(away))
    assert "CANARY" not in run.path("config.yaml").read_text()
    assert run.note("manifest").stat().st_mode & 0o777 == 0o600
    assert open_run("mine").order_form == make_run("mine", manifest=str(away)).order_form == away
    other = away.with_name("other.csv")
    other.write_text("scan_id\n")
    with pytest.raises(ConfigError, match="exists with manifest"):
        make_run("mine", manifest=str(other))
    run.note("manifest").unlink()
    with pytest.raises(ConfigError, match="where the run's manifest lies is not known"):
        open_run("mine")


def test_given_weights_are_known_by_name_and_hash_and_found_again(root, make_run, tmp_path_factory):
    away, other = (tmp_path_factory.mktemp("CANARY") / "w.safetensors" for _ in range(2))
    away.write_bytes(b"one")
    other.write_bytes(b"two")
    run = make_run("mine", weights=str(away))
    assert run.config.weights == "outside:w.safetensors" and "CANARY" not in run.path("config.yaml").read_text()
    assert open_run("mine").given_weights == away
    with pytest.raises(ConfigError, match=f"exists with weights_sha256 = '{run.config.weights_sha256}', not"):
        make_run("mine", weights=str(other))
    assert open_run("mine").given_weights == away
    other.write_bytes(b"one")
    assert make_run("mine", weights=str(other)).given_weights == other, "the same file, moved"
    shutil.copyfile(away, root / "w.safetensors")
    assert make_run("here", weights=str(root / "w.safetensors")).config.weights == "w.safetensors"
    with pytest.raises(ConfigError, match="no such weights file"):
        make_run("none", weights="none.safetensors")
    assert not (root / "runs" / "none").exists()


def test_a_profile_of_ones_own_is_read_from_the_repository_wherever_a_command_starts(
    root, tmp_path_factory, monkeypatch
):
    """Snakemake starts in the run's folder: what config.yaml names must be found from there."""
    (root / "sizes").mkdir()
    own = edited(root / "sizes", lambda content: content.update(name="mine", minutes=2.5))
    run = open_run("mine", profile="sizes/mine.yaml")
    assert run.config.profile == "sizes/mine.yaml"
    assert str(root) not in run.path("config.yaml").read_text()
    monkeypatch.chdir(run.folder)
    assert open_run("mine").profile == run.profile == load_profile("sizes/mine.yaml", root)
    assert open_run("mine", profile=own).config == run.config
    link = tmp_path_factory.mktemp("home") / "checkout"
    link.symlink_to(root)
    assert open_run("mine", profile=str(link / "sizes" / "mine.yaml")).config == run.config
    (root / "sizes" / "mine.yaml").unlink()
    with pytest.raises(
        ConfigError, match=r"no profile 'sizes/mine\.yaml'. A file's path starts at the root of the repo"
    ):
        open_run("mine")


def test_a_profile_outside_the_repository_is_refused_and_its_path_not_told(root, tmp_path_factory):
    own = edited(tmp_path_factory.mktemp("CANARY"), lambda content: None)
    for text in (own, os.path.relpath(own, root)):
        with pytest.raises(ConfigError, match=r"^mine\.yaml: .* outside the repository\. Copy it") as error:
            open_run("mine", profile=text)
        assert "CANARY" not in str(error.value)
    assert not (root / "runs" / "mine").exists()


def test_a_manifest_inside_the_repository_is_named_relative_to_it(root, make_run):
    (root / "own.csv").write_text("scan_id\n")
    run = make_run("mine", manifest=str(root / "own.csv"))
    assert run.config.manifest == "own.csv"
    assert make_run("mine", manifest="own.csv").order_form == root / "own.csv"
