"""Who this process is in the charter, and whom the charter enrols."""

from __future__ import annotations

from fedfm_crypto.identity import IdentityKey
from fedfm_protocols.charter import Client, Coordinator, Validator
from fedfm_protocols.enrolment import open_enrolment
from fedfm_protocols.errors import EnrolmentError
from fedfm_protocols.federation import Federation
from secure_fedfm.config import SiteConfig
from secure_fedfm.services.evidence import enrolled_parties
from secure_fedfm.storage.site import Site
from secure_fedfm.transport.curve import CurveKeyPair


def check_party(
    site: Site, config: SiteConfig, federation: Federation
) -> tuple[IdentityKey, CurveKeyPair]:
    """This site's keys, if they are the ones that the charter enrolled under its name.

    Raises
    ------
    EnrolmentError
        if the charter has another key, role, or no such name.
    """
    charter = federation.charter
    parties: dict[str, tuple[str, Client | Coordinator | Validator]] = {
        client.name: ("client", client) for client in charter.roster
    } | {charter.coordinator.name: ("coordinator", charter.coordinator)}
    judge = "it has no validator"
    if charter.validator is not None:
        parties[charter.validator.name] = ("validator", charter.validator)
        judge = f"its validator is {charter.validator.name}"
    role, party = parties.get(config.name, ("", None))
    if party is None or role != config.role:
        raise EnrolmentError(
            f"{config.name} is no {config.role} of this charter; its coordinator is "
            f"{charter.coordinator.name}, {judge}, its clients are "
            f"{', '.join(federation.clients)}"
        )
    identity = site.identity()
    keys = CurveKeyPair.from_secret(site.transport())
    for what, found, enrolled in (
        ("identity", identity.public.hex, party.identity),
        ("transport", keys.public.hex(), party.transport),
    ):
        if found != enrolled:
            raise EnrolmentError(
                f"the {what} key of this site ({found[:16]}) is not the one the charter enrolled "
                f"for {config.name} ({enrolled[:16]}); use the site folder that enrolled, or have "
                "the founders sign a charter with the new enrolment"
            )
    return identity, keys


def read_enrolments(site: Site, federation: Federation) -> dict[str, bytes]:
    """The signed enrolments that the charter names, from SITE/enrolments/NAME.json, by name.

    Raises
    ------
    EnrolmentError
        if one is missing, does not verify, or is not the one that the founders signed for.
    """
    charter = federation.charter
    found: dict[str, bytes] = {}
    expected = {client.name: client.enrolment for client in charter.roster}
    if charter.validator is not None:
        expected[charter.validator.name] = charter.validator.enrolment
    for name in enrolled_parties(federation):
        path = site.enrolments_folder / f"{name}.json"
        if name == charter.coordinator.name and not path.is_file():
            path = site.enrolment_file
        try:
            enrolment = open_enrolment(path.read_bytes())
        except FileNotFoundError:
            raise EnrolmentError(
                f"no enrolment of {name} at {path}; copy the file that {name} made with "
                "`secure-fedfm enroll` there"
            ) from None
        if enrolment.name != name or expected.get(name, enrolment.digest) != enrolment.digest:
            raise EnrolmentError(
                f"{path} is not the enrolment of {name} that the founders signed for "
                f"(found {enrolment.name}, {enrolment.digest[:16]})"
            )
        found[name] = enrolment.statement
    return found
