"""`dicom-node model`: every command on a real ledger and a real registry, with good and bad bundles."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from auditing import events, lines
from toys import Site, bundle
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.models.promotion import FORCED, open_registry
from dicom_node.storage import bundles
from explain_core.bundles import files

AWAY = {"DICOM_NODE_REGISTRY__URI": "http://127.0.0.1:9"}


class Administrator(Site):
    """Somebody at the command line."""

    def run(self, *arguments: object, expect: int = 0, env: dict[str, str] | None = None):
        words = ["model", *map(str, arguments), "--config", str(self.config)]
        done = CliRunner().invoke(app, words, env=env, catch_exceptions=False)
        assert done.exit_code == expect, done.output + done.stderr
        return done

    def json(self, *arguments: object, **options):
        return json.loads(self.run(*arguments, "--json", **options).stdout)


@pytest.fixture
def admin(tmp_path, empty_registry, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    made = Administrator(tmp_path, empty_registry)
    yield made
    made.ledger.close()


def test_list_shows_versions_gates_aliases_and_what_runs(admin):
    nothing = admin.json("list")
    assert (nothing["versions"], nothing["challenger"], nothing["champion"]["name"]) == ([], {}, "toy")
    assert nothing["champion"]["since"] == "as configured"
    admin.version("1")
    admin.version("2", "refused")
    admin.run("promote", 1, "--reason", "first")
    admin.run("shadow", 2)
    listed = admin.json("list")
    assert [(one["number"], one["gate"], one["aliases"]) for one in listed["versions"]] == [
        (1, "passed", ["champion"]),
        (2, "refused", ["challenger"]),
    ]
    assert (listed["champion"]["number"], listed["challenger"]["number"]) == (1, 2)
    assert listed["champion"]["reason"] == "first"
    assert listed["repaired"] == []
    text = admin.run("list").stdout
    assert "toy 1" in text
    assert "refused" in text
    assert "runs: toy 1" in text


def test_a_refused_version_is_promoted_by_force_with_a_reason_that_is_kept(admin):
    admin.version("1", "refused")
    done = admin.run("promote", 1, expect=1)
    assert "refused by its gate" in done.stderr
    assert "--reason" in admin.run("promote", 1, "--force", expect=1).stderr
    assert admin.ledger.history() == []
    assert admin.json("promote", 1, "--force", "--reason", "the old one is broken")["forced"] is True
    shown = admin.json("show")
    assert shown["tags"][FORCED].endswith(": the old one is broken")
    assert [(one["forced"], one["reason"]) for one in shown["deployments"]] == [(True, "the old one is broken")]
    assert "the old one is broken" in admin.run("show", 1).stdout


def test_show_copies_reports(admin):
    report = admin.folder / "report.html"
    report.write_text("<p>figures</p>")
    made = bundle(admin.folder / "made", "1")
    admin.registry.register(made, gate="passed", lineage={"job": "j7"}, metrics={"auc": 0.9}, reports=[report])
    shown = admin.json("show", 1, "--reports", admin.folder / "out")
    assert Path(shown["reports"][0]).read_text() == "<p>figures</p>"
    assert (shown["tags"]["job"], shown["metrics"]) == ("j7", {"auc": 0.9})
    assert "not found" in admin.run("show", 9, expect=1).stderr


def test_the_challenger_comes_and_goes(admin):
    admin.version("1")
    admin.run("shadow", expect=2)
    admin.run("shadow", 1, "--off", expect=2)
    assert "no challenger" in admin.run("shadow", "--off", expect=1).stderr
    assert "challenger: version 1" in admin.run("shadow", 1).stdout
    assert admin.aliases() == {1: {"challenger"}}
    assert "challenger: nothing" in admin.run("shadow", "--off").stdout
    assert admin.aliases() == {}


def test_a_rollback_works_while_the_registry_is_away_and_the_next_command_sets_its_aliases_right(admin):
    admin.version("1")
    admin.version("2")
    admin.run("promote", 1)
    admin.run("promote", 2)
    done = admin.run("rollback", "--reason", "worse at night", env=AWAY)
    assert "champion: version 1" in done.stdout
    assert "its aliases will follow" in done.stdout
    away = admin.run("list", "--json", env=AWAY, expect=1)
    assert json.loads(away.stdout)["champion"]["number"] == 1
    assert "does not answer" in away.stderr
    assert "does not answer" in admin.run("promote", 2, env=AWAY, expect=1).stderr
    assert admin.aliases() == {2: {"champion"}}
    listed = admin.json("list")
    assert [one["aliases"] for one in listed["versions"]] == [["champion"], []]
    assert listed["repaired"] == [
        "the registry's alias champion pointed to version 2; by the ledger it now points to version 1"
    ]
    assert admin.aliases() == {1: {"champion"}}
    assert "configured bundle" in admin.run("rollback").stdout
    assert "nothing" not in admin.run("rollback", expect=1).stdout


def test_verify_finds_damage_in_the_store_and_in_the_registry(admin):
    one = admin.version("1")
    admin.run("promote", 1)
    assert [check["trouble"] for check in admin.json("verify")["checks"]] == [None, None, None]
    admin.run("verify", 1)
    card = admin.settings.model.store / one.digest / "model_card.md"
    card.write_text("?")
    found = admin.json("verify", expect=1)
    assert [check["what"].split()[0] for check in found["checks"] if check["trouble"]] == ["what", "store"]
    assert "model_card.md" in admin.json("list")["champion"]["trouble"]
    admin.run("promote", 1)  # brings the files again
    admin.run("verify")
    (kept,) = (admin.folder / "artifacts").rglob("model_card.md")
    kept.write_text("?")
    found = admin.json("verify", expect=1)
    assert [check["what"] for check in found["checks"] if check["trouble"]] == ["registry version 1"]
    assert admin.json("verify", env=AWAY, expect=1)["damaged"] == 1


def test_what_is_exported_is_imported_elsewhere_without_a_gate(admin, tmp_path, empty_registry):
    one = admin.version("1")
    file = tmp_path / "out" / "model.tar"
    assert admin.json("export", 1, file)["digest"] == one.digest
    first = file.read_bytes()
    admin.run("export", 1, file)
    assert file.read_bytes() == first
    (tmp_path / "other").mkdir()
    other = Administrator(tmp_path / "other", empty_registry)
    other.run("import", file, expect=2)
    other.run("import", file, "--reason", " ", expect=2)
    other.run("import", tmp_path / "none", "--reason", "x", expect=2)
    made = other.json("import", file, "--reason", "from the university")
    assert (made["digest"], made["gate"], made["number"]) == (one.digest, "none", 1)
    assert "from the university" in made["tags"]["reason"]
    assert other.json("import", file, "--reason", "again")["number"] == 1
    assert other.ledger.history() == []
    folder = bundle(tmp_path / "folder", "5")
    assert other.json("import", folder, "--reason", "a folder")["bundle_version"] == "5"
    (folder / "link").symlink_to("/etc/hostname")
    assert "is a link" in other.run("import", folder, "--reason", "x", expect=1).stderr
    other.ledger.close()


def members(folder: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    made = []
    for path in sorted(folder.iterdir()):
        info = tarfile.TarInfo(f"b/{path.name}")
        info.size = path.stat().st_size
        made.append((info, path.read_bytes()))
    return made


def plain(name: str, content: bytes = b"evil") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


HOSTILE = {
    "a path up": (plain("../../evil"), "leaves the bundle's folder"),
    "an absolute path": (plain("/evil-of-a-test"), "leaves the bundle's folder"),
    "a folder within": (plain("b/c/evil"), "leaves the bundle's folder"),
    "a symbolic link": (special("b/evil", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
    "a hard link": (special("b/evil", tarfile.LNKTYPE, "b/bundle.toml"), "is a link"),
    "a device": (special("b/evil", tarfile.CHRTYPE), "is a link or no plain file"),
    "an unlisted file": (plain("b/evil.py"), "'evil.py' in the tar file is not listed"),
    "a second bundle": (plain("c/evil"), "more than one bundle"),
    "a file twice": (plain("b/bundle.toml"), "one file twice"),
    "an unlisted classifier": (plain("b/classifier.pt"), "not listed"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_tar_file_is_refused_and_leaves_nothing_behind(admin, tmp_path, what):
    (extra, message) = HOSTILE[what]
    for number, order in enumerate(("first", "last")):
        file = tmp_path / f"{number}.tar"
        parts = members(bundle(tmp_path / f"made{number}", "1"))
        parts = [extra, *parts] if order == "first" else [*parts, extra]
        with tarfile.open(file, "w") as tar:
            for info, content in parts:
                tar.addfile(info, io.BytesIO(content))
        before = set(tmp_path.rglob("*"))
        done = admin.run("import", file, "--reason", "x", expect=1)
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert {path.name for path in set(tmp_path.rglob("*")) - before} <= {"models"}
    assert admin.registry.versions() == []
    assert not Path("/evil-of-a-test").exists()


def test_a_damaged_tar_file_is_refused(admin, tmp_path):
    file = tmp_path / "b.tar"
    bundles.pack(bundle(tmp_path / "made", "1"), file)
    content = file.read_bytes()
    (tmp_path / "short.tar").write_bytes(content[:1500])
    (tmp_path / "shorter.tar").write_bytes(content[:800])
    (tmp_path / "text.tar").write_text("not a tar file at all")
    changed = content.replace(b"generators.safetensors 1", b"generators.safetensors 2")
    assert changed != content
    (tmp_path / "changed.tar").write_bytes(changed)
    said = {
        "short": "short.tar/bundle.toml is missing",
        "shorter": "can be read",
        "text": "can be read",
        "changed": "changed.tar/generators.safetensors does not match its checksum",
    }
    for name, message in said.items():
        assert message in admin.run("import", tmp_path / f"{name}.tar", "--reason", "x", expect=1).stderr
    nameless = bundle(tmp_path / "nameless", "1")
    (nameless / "bundle.toml").write_text("[classifier]\n")
    files.write_sums(nameless)
    assert "bundle.toml" in admin.run("import", nameless, "--reason", "x", expect=1).stderr
    assert admin.registry.versions() == []


def test_an_unpacked_bundle_is_limited_in_size_and_number(tmp_path, monkeypatch):
    file = tmp_path / "b.tar"
    bundles.pack(bundle(tmp_path / "made", "1"), file)
    for limit in ("MOST_FILES", "MOST_BYTES"):
        with monkeypatch.context() as patched:
            patched.setattr(bundles, limit, 3)
            with pytest.raises(Exception, match="more than"), bundles.unpacked(file, tmp_path / "scratch"):
                pass


def test_model_commands_load_no_torch_and_mlflow_only_when_it_is_asked(admin):
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom dicom_node.cli import app\n"
        f"CliRunner().invoke(app, ['model', 'rollback', '--config', {str(admin.config)!r}])\n"
        "sys.exit(bool({'torch', 'mlflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_wrong_setting_of_the_registry_is_one_line(admin):
    done = admin.run("list", env={"DICOM_NODE_REGISTRY__URI": "ftp://x"}, expect=2)
    assert "DICOM_NODE_REGISTRY__URI" in done.stderr
    assert open_registry(admin.settings).versions() == []


def test_promotions_and_rollbacks_are_changes_of_the_software_configuration_in_the_audit(admin):
    first = admin.version("1")
    admin.version("2", "refused")
    admin.run("promote", 1, "--reason", "first")
    admin.run("promote", 2, "--force", "--reason", "the old one is broken")
    admin.run("rollback")
    admin.run("shadow", 1)
    admin.run("shadow", "--off")
    admin.run("promote", 9, expect=1)
    admin.run("list")
    trail = admin.folder / "audit"
    assert set(events(trail)) == {"Security Alert: Software Configuration"}
    subjects = [line["ParticipantObjectIdentification"][0] for line in lines(trail)]
    told = [{one["type"]: one["value"] for one in subject["ParticipantObjectDetail"]} for subject in subjects]
    assert [one["Alert Description"] for one in told] == [
        "champion: deploy", "champion: deploy", "champion: rollback", "challenger: deploy", "challenger: withdraw",
    ]  # fmt: skip
    assert (told[1]["Forced"], told[1]["Reason"]) == ("against an objection", "the old one is broken")
    assert subjects[0]["ParticipantObjectID"] == f"urn:sha256:{first.digest}"
    assert "@" in lines(trail)[0]["ActiveParticipant"][1]["UserID"]
