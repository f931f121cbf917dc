"""Real certificates for tests: an authority, what it signs, and what is wrong with some."""

import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dicom_node.nouns import TLSFiles

DAY = dt.timedelta(days=1)


def now():
    return dt.datetime.now(dt.UTC)


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key, password=None):
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


class Authority:
    """Signs certificates; its own lies at `path`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / f"{name}.pem"
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _name(name)
        builder = self._builder(self._name, self._key, now() - DAY, now() + 100 * DAY)
        self._certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
            self._key, hashes.SHA256()
        )
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject, key, begins, ends):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )

    def issue(self, name: str, *, begins=-1, ends=99, host="127.0.0.1", password=None) -> TLSFiles:
        """NAME.pem and NAME.key, valid from `begins` to `ends` days from now; the old ones are replaced at once."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(f"{name}.example")] + ([x509.IPAddress(ipaddress.ip_address(host))] if host else [])
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(_name(name), key, now() + begins * DAY, now() + ends * DAY)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = TLSFiles(
            certificate=self.folder / f"{name}.pem", key=self.folder / f"{name}.key", authorities=self.path
        )
        put(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        put(files.key, _pem(key, password))
        return files

    def revoke(self, *files: TLSFiles, ends=30) -> Path:
        """A revocation list with these certificates in it."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now() - 60 * DAY).next_update(now() + ends * DAY)
        for one in files:
            serial = x509.load_pem_x509_certificate(one.certificate.read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now() - DAY).build()
            builder = builder.add_revoked_certificate(revoked)
        path = self.folder / "revocations.pem"
        put(path, builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


def put(path: Path, content: bytes) -> None:
    """A file renewed as a careful tool does it."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.chmod(0o600)
    new.replace(path)


def client(files: TLSFiles, *, shown=True, version=None) -> ssl.SSLContext:
    """What a peer connects with; it takes any name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(files.authorities)
    if shown:
        context.load_cert_chain(files.certificate, files.key)
    if version is not None:
        if version < ssl.TLSVersion.TLSv1_2:
            context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    return context


def server(files: TLSFiles, *, wanted=True, version=None) -> ssl.SSLContext:
    """What a peer that is connected to has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.authorities)
    context.verify_mode = ssl.CERT_REQUIRED if wanted else ssl.CERT_NONE
    if version is not None:
        if version < ssl.TLSVersion.TLSv1_2:
            context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    return context


def tls_settings(files: TLSFiles, **more) -> dict[str, str]:
    """The [tls] table as the environment says it."""
    table = {key: getattr(files, key) for key in ("certificate", "key", "authorities", "revocations")}
    table |= {"port": 0} | more
    return {f"DICOM_NODE_TLS__{key.upper()}": str(value) for key, value in table.items() if value is not None}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Signs the certificates of a module's tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def mine(authority):
    """What the node shows."""
    return authority.issue("node")


@pytest.fixture(scope="module")
def theirs(authority):
    """What its peer shows."""
    return authority.issue("pacs")
