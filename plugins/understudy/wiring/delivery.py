"""Wires delivery: the primary, destinations and vaults as holders, and the lane of each holder."""

import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from understudy import config
from understudy.adapters import keys as keys_volume
from understudy.adapters.dicom import DicomPeer
from understudy.adapters.dicomweb import DicomWebServer
from understudy.adapters.directory import DirectoryStore
from understudy.adapters.encryption import AgeSealer
from understudy.adapters.healing import GetSource
from understudy.adapters.s3 import S3Store, read_credentials
from understudy.adapters.secret_files import file_of
from understudy.adapters.tls import ClientTls
from understudy.adapters.transcoding import Transcoder
from understudy.adapters.writer import read_signer
from understudy.core.model import HolderKind, HolderName
from understudy.core.modes import delivers_to_primary
from understudy.core.ports import Holder, InstanceSource, ObjectStore
from understudy.core.schedule import Hours, Limit, bytes_per_second, in_window
from understudy.engine.beside import Beside
from understudy.engine.pace import Pacer
from understudy.flow.courier import Lane, LanePolicy
from understudy.flow.recipients import PinnedSealer
from understudy.holders.commitment import Commitment, CommitmentPolicy
from understudy.holders.destination import DicomDestination, Transcode
from understudy.holders.immutability import LockWatch
from understudy.holders.readback import ContentCheck, ReadBack
from understudy.holders.vault import Vault, VaultSettings, held_in_memory
from understudy.system.spool import Spool
from understudy.wiring.base import STEP_INTERVAL, Base

_ROUTE_BATCH = 500
_ROUTE_BATCH_BYTES = 256 * 2**20
_PACK_INSTANCES = 2000
_LOCK_INTERVAL = 30.0
"""Seconds between two checks whether an object's lock has to be read back."""


def dicom_peer(
    name: str, ae_title: str, host: str, port: int, tls: config.Tls | None, base: Base
) -> DicomPeer:
    """Return the client of a DICOM party."""
    return DicomPeer(
        name,
        ae_title=ae_title,
        host=host,
        port=port,
        calling_ae_title=base.configuration.ae_title,
        timeout=base.policy.network_timeout,
        tls=client_tls(tls, base.places.configuration),
    )


def _receiver(target: config.Destination, base: Base) -> DicomPeer | DicomWebServer:
    if target.url is None:
        # The checks of the configuration guarantee that both are there.
        return dicom_peer(
            target.name, target.ae_title or "", target.host or "", target.port, target.tls, base
        )
    folder = base.places.configuration
    return DicomWebServer(
        target.name,
        target.url,
        timeout=base.policy.network_timeout,
        tls=client_tls(target.tls, folder),
        credentials=None if target.credentials_file is None else file_of(folder, target.credentials_file),
    )


def _source(target: config.Destination, receiver: DicomPeer | DicomWebServer, base: Base) -> InstanceSource:
    """Return the source from which a destination's instances can be fetched back."""
    return receiver if isinstance(receiver, DicomWebServer) else get_source(receiver, target.tls, base)


def get_source(peer: DicomPeer, tls: config.Tls | None, base: Base) -> GetSource:
    """Return a source that fetches single instances back from a DICOM party."""
    return GetSource(
        peer.name,
        ae_title=peer.ae_title,
        host=peer.host,
        port=peer.port,
        calling_ae_title=base.configuration.ae_title,
        timeout=base.policy.network_timeout,
        tls=client_tls(tls, base.places.configuration),
    )


def client_tls(section: config.Tls | None, folder: Path) -> ClientTls | None:
    """Return the TLS settings for a party, None if it is reached without TLS."""
    if section is None:
        return None
    return ClientTls(
        file_of(folder, section.authorities),
        None if section.certificate is None else file_of(folder, section.certificate),
        None if section.key is None else file_of(folder, section.key),
        section.server_name,
    )


def dicom_destination(
    kind: HolderKind,
    peer: DicomPeer | DicomWebServer,
    base: Base,
    *,
    proof: config.Proof,
    associations: int,
    source: InstanceSource,
    limits: Sequence[Limit] = (),
    transcode: Transcode | None = None,
) -> DicomDestination:
    """Return the party as a holder; `limits` are its bandwidth limits.

    `source` is for reading back: every instance if that is the proof, otherwise those that a UID cannot tell
    from another content.
    """
    pace = Pacer(lambda: bytes_per_second(limits, base.local()), base.clock, base.workers.wait)
    contents = content_check(peer.name, source, base)
    # A party that accepts one association at a time is only asked while nothing is sent.
    wake = partial(base.workers.wake, f"lane-{peer.name}")
    beside = Beside(base.clock, wake, in_turn=associations == 1)
    commitment = None
    if isinstance(peer, DicomPeer) and proof in ("auto", "commitment"):
        policy = CommitmentPolicy(proof == "commitment", base.policy.commitment_patience)
        commitment = Commitment(
            peer, base.orthanc, base.ledger.commitments, base.clock, policy, new_uid=new_uid, beside=beside
        )
    return DicomDestination(
        kind,
        peer,
        base.files,
        base.clock,
        associations=associations,
        pace=pace,
        transcode=transcode,
        commitment=commitment,
        read_back=contents.read_back if proof == "readback" else None,
        # A copy that was transcoded never comes back with the content that is stored here.
        contents=None if proof == "readback" or transcode else contents,
        memory=base.memory.of(peer.name),
        beside=beside,
    )


def content_check(name: str, source: InstanceSource, base: Base) -> ContentCheck:
    """Return the comparison of contents with the named party, from which `source` fetches."""
    read_back = ReadBack(source, base.files.data_set_digest, base.clock, base.memory.of(name))
    return ContentCheck(read_back, partial(base.ledger.custody.ambiguous, HolderName(name)))


def new_uid() -> str:
    """Return a unique UID that nobody can guess (DICOM PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def pinned_sealers(base: Base, *, from_folder: bool = True) -> Mapping[HolderName, PinnedSealer]:
    """Return the sealer of each vault; raises SealError, with a hint.

    Recipients are accepted without an administrator only from the configuration's folder, because the agent
    cannot write there.
    """
    sealers: dict[HolderName, PinnedSealer] = {}
    for vault in base.configuration.vaults:
        name = HolderName(vault.name)
        given = partial(list, vault.recipients) if vault.recipients else partial(_made_recipient, base)
        configured = from_folder and bool(vault.recipients)
        sealers[name] = PinnedSealer(name, given, AgeSealer, base.ledger, base.clock, configured=configured)
    return sealers


def _made_recipient(base: Base) -> list[str]:
    """Return the recipient that the first start made, an empty list if its file is missing or unreadable."""
    try:
        return [keys_volume.vault_recipient(base.places.keys)]
    except (keys_volume.KeysError, OSError, ValueError):
        return []


def configured_holders(
    base: Base, sealers: Mapping[HolderName, PinnedSealer] | None = None
) -> Iterator[Holder]:
    """Yield the routes' destinations, then the vaults; raises SealError and WriterError, with a hint."""
    sealers = pinned_sealers(base) if sealers is None else sealers
    for target in base.configuration.destinations:
        limits = [Limit(Hours.parse(one.hours), one.bytes_per_second) for one in target.bandwidth]
        transcode = Transcoder(base.orthanc) if target.transfer_syntax == "accepted" else None
        receiver = _receiver(target, base)
        yield dicom_destination(
            HolderKind.ROUTE,
            receiver,
            base,
            proof=target.proof,
            associations=target.associations,
            limits=limits,
            transcode=transcode,
            source=_source(target, receiver, base),
        )
    for vault in base.configuration.vaults:
        yield _vault(vault, base, sealers[HolderName(vault.name)])


def wire_lane(holder: Holder, base: Base) -> Lane:
    """Return the holder's lane, and add its worker."""
    packs = holder.kind is HolderKind.VAULT
    policy = LanePolicy(
        batch_instances=_PACK_INSTANCES if packs else _ROUTE_BATCH,
        batch_bytes=base.policy.pack_bytes if packs else _ROUTE_BATCH_BYTES,
        linger=base.policy.pack_linger if packs else 0.0,
        retry_base=base.policy.retry_base,
        retry_cap=base.policy.retry_cap,
        longest_wait=max(base.policy.retry_cap, base.policy.primary_grace, base.policy.stable_age),
    )

    def is_open() -> bool:
        return holder.kind is not HolderKind.PRIMARY or delivers_to_primary(base.ledger.modes.current().mode)

    windows = [
        Hours.parse(window)
        for target in base.configuration.destinations
        if target.name == holder.name
        for window in target.windows
    ]
    lane = Lane(
        holder,
        base.ledger,
        base.clock,
        policy,
        is_open=is_open,
        fraction=random.random,
        in_window=lambda: in_window(windows, base.local()),
        suspects=base.suspects,
        beside=holder.beside if isinstance(holder, DicomDestination) else None,
    )
    base.workers.add(f"lane-{holder.name}", lane.step, STEP_INTERVAL)
    return lane


def _vault(vault: config.Vault, base: Base, sealer: PinnedSealer) -> Vault:
    name = HolderName(vault.name)
    store: ObjectStore
    watch: LockWatch | None = None
    if isinstance(vault, config.S3Vault):
        credentials = partial(read_credentials, file_of(base.places.configuration, vault.credentials_file))
        store = S3Store(name, vault.endpoint, vault.bucket, vault.region, credentials)
        watch = LockWatch(name, store, partial(base.ledger.packs.newest, name), base.clock)
        base.workers.add(f"lock-{name}", watch.step, _LOCK_INTERVAL)
        settings = VaultSettings(name, base.configuration.site, vault.retention_days)
    else:
        store = DirectoryStore(name, vault.directory)
        settings = VaultSettings(name, base.configuration.site, None)
    return Vault(
        settings,
        base.files,
        store,
        sealer,
        base.ledger.packs,
        base.clock,
        Spool(base.places.state, held_in_memory(base.memory.most, len(base.configuration.vaults))),
        signer=read_signer(base.places.state),
        watch=watch,
        memory=base.memory.of(name),
    )
