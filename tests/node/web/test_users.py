import pytest

from dicom_node.errors import ConfigError
from dicom_node.web.access import TRIES, WAIT_SECONDS, Doorkeeper
from dicom_node.web.users import UserRole, Users

PASSWORD = "correct horse battery"  # noqa: S105


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "users.toml"
    Users(made).put("anna", PASSWORD, UserRole.ADMINISTRATOR)
    return made


def test_a_password_is_checked_and_kept_as_a_hash_for_its_owner_alone(path):
    users = Users(path)
    assert users.checked("anna", PASSWORD) == users.user("anna")
    assert users.checked("anna", PASSWORD + " ") is None
    assert users.checked("berta", PASSWORD) is None
    assert users.checked("", "") is None
    assert PASSWORD not in path.read_text()
    assert "$argon2id$" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_another_password_or_role_is_another_seal(path):
    users = Users(path)
    before = users.user("anna").seal
    users.put("anna", PASSWORD, UserRole.VIEWER)
    after = users.user("anna")
    assert (after.role, after.administers) == (UserRole.VIEWER, False)
    assert after.seal != before


def test_who_is_removed_is_gone(path):
    users = Users(path)
    assert users.remove("anna")
    assert not users.remove("anna")
    assert users.all() == []
    assert users.checked("anna", PASSWORD) is None


@pytest.mark.parametrize(
    ("name", "password", "said"),
    [
        ("a b", PASSWORD, "a name has"),
        ('x"]', PASSWORD, "a name has"),
        ("", PASSWORD, "a name has"),
        ("b", "short", "at least 12"),
    ],
)
def test_names_and_passwords_that_cannot_be_used_are_refused(path, name, password, said):
    before = path.read_text()
    with pytest.raises(ConfigError, match=said):
        Users(path).put(name, password, UserRole.VIEWER)
    assert path.read_text() == before


@pytest.mark.parametrize(
    "content", ["[users", "[other]\n", '[users.x]\nrole = "king"\npassword = "y"\n', '[users.x]\nrole = "viewer"\n']
)
def test_a_damaged_file_is_refused_with_its_name(path, content):
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"web\.users: .*users\.toml"):
        Users(path).all()


def test_a_file_that_others_may_write_is_refused(path):
    path.chmod(0o620)
    with pytest.raises(ConfigError, match="chmod 600"):
        Users(path).user("anna")


def test_who_fails_too_often_waits_and_others_do_not():
    now = [0.0]
    door = Doorkeeper(clock=lambda: now[0])
    for _ in range(TRIES):
        assert door.waits("name a", "address 1") == 0
        door.failed("name a", "address 1")
    assert door.waits("name a", "address 2") == WAIT_SECONDS
    assert door.waits("name b", "address 1") == WAIT_SECONDS
    assert door.waits("name b", "address 2") == 0
    now[0] = WAIT_SECONDS + 1
    assert door.waits("name a", "address 1") == 0
    door.granted("name a")
    assert door.waits("name a") == 0


def test_what_is_remembered_of_failures_is_bounded():
    now = [0.0]
    door = Doorkeeper(clock=lambda: now[0])
    for number in range(10_001):
        door.failed(f"address {number}")
    now[0] = 1000.0
    door.failed("address x")
    assert len(door._failed) == 1
