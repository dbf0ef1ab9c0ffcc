"""The four files of a deployment: who can open what, what is refused, what is in them."""

import json

import msgspec
import pytest
import torch
from tests.diagnosis.conftest import make_model, run_primum

from primum.compiler.linear import linear_program
from primum.diagnosis.deploy import NAMES, PUBLIC, deploy
from primum.diagnosis.deployable import deployable_model
from primum.diagnosis.deployment import load_public, open_role_file
from primum.diagnosis.roles import load_card, load_keys, make_role, save_card
from primum.errors import InputError, ModelError, PeerError
from primum.keys.identity import Identity
from primum.mpc.share import to_bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three roles, a model and its deployment, made with the commands that the help text gives."""
    folder = tmp_path_factory.mktemp("deployment")
    make_model(folder / "model")
    for name, verb, port in (("dealer", "dealer", 17401), ("a", "serve", 17411), ("b", "serve", 17421)):
        made = run_primum(
            verb, "--init", folder / f"{name}.card", "--address", f"127.0.0.1:{port}", "--state", folder / name
        )
        assert made.returncode == 0 and "Fingerprint" in made.stdout, made.stderr
    printed = deploy_command(folder, "files")
    assert printed.returncode == 0, printed.stderr
    return folder


def deploy_command(folder, out, **cards):
    names = {"dealer": "dealer.card", "a": "a.card", "b": "b.card"} | cards
    options = [part for role, name in names.items() for part in (f"--{role}", folder / name)]
    return run_primum("deploy", folder / "model", *options, "--out", folder / out)


def test_the_folder_holds_four_files_and_the_public_one_names_the_rest(folder):
    files = folder / "files"
    assert sorted(path.name for path in files.iterdir()) == sorted([*NAMES.values(), PUBLIC])
    public = load_public(files / PUBLIC)
    assert public.card["classes"] == ["NORMAL", "PNEUMONIA"] and public.card["front_end"]["kind"] == "scattering"
    assert public.deployment.a.address == "127.0.0.1:17411" and public.deployment.a.link == "127.0.0.1:17412"
    assert load_card(folder / "dealer.card", "dealer") == public.deployment.dealer


def test_each_file_opens_for_its_role_only(folder):
    keys = {name: load_keys(folder / name) for name in ("dealer", "a", "b")}
    own = {"dealer": "dealer.json", "a": "server-a.json", "b": "server-b.json"}
    for name, file in own.items():
        role = open_role_file(folder / "files" / file, keys[name], ("dealer", "A", "B")).role
        assert role.lower() == name
        for stranger in set(keys) - {name}:
            with pytest.raises(ModelError, match=file):
                open_role_file(folder / "files" / file, keys[stranger], ("dealer", "A", "B"))


def test_the_dealer_gets_no_weights_and_no_file_shows_them(folder):
    from primum.models.card import load_model

    keys = {name: load_keys(folder / name) for name in ("dealer", "a", "b")}
    dealer = open_role_file(folder / "files" / "dealer.json", keys["dealer"], ("dealer",))
    assert dealer.masked == b"" and len(dealer.seeds) == 2
    servers = [open_role_file(folder / "files" / f"server-{name}.json", keys[name], ("A", "B")) for name in ("a", "b")]
    assert servers[0].masked == servers[1].masked and servers[0].seeds != servers[1].seeds
    assert (servers[0].seeds + servers[1].seeds) == dealer.seeds
    weight = load_model(folder / "model").weight.numpy()
    program = dealer.deployment.program
    encoded = to_bytes(linear_program(weight)[1], program.bits).tobytes()
    plain = [weight.tobytes()[:64], encoded[:64]]
    for content in (dealer, *servers):
        data = msgspec.msgpack.encode(content)
        assert not any(piece in data for piece in plain)
    assert plain[1] in encoded  # the search can find


def test_two_deployments_of_one_model_share_no_mask(folder):
    assert deploy_command(folder, "again").returncode == 0
    key = load_keys(folder / "a")
    one, two = (open_role_file(folder / name / "server-a.json", key, ("A",)) for name in ("files", "again"))
    assert one.deployment.model == two.deployment.model and one.deployment.digest() != two.deployment.digest()
    assert one.seeds != two.seeds
    assert sum(x == y for x, y in zip(one.masked, two.masked, strict=True)) < len(one.masked) / 100


@pytest.mark.parametrize(
    "cards, named",
    [
        ({"b": "a.card"}, "server A and server B have the same identity"),
        ({"dealer": "a.card"}, "card of a server"),
        ({"a": "dealer.card"}, "card of a dealer"),
        ({"a": "missing.card"}, "missing.card"),
        ({"a": "model/card.json"}, "card.json"),
    ],
)
def test_wrong_cards_are_refused_and_nothing_is_written(folder, cards, named):
    printed = deploy_command(folder, "refused", **cards)
    assert printed.returncode != 0 and "Traceback" not in printed.stderr
    assert named.lower() in printed.stderr.lower()
    assert not (folder / "refused").exists()


def test_one_institution_in_two_roles_is_refused_even_with_two_cards(folder, tmp_path):
    """The same keys at another address, and as a dealer: still one identity."""
    twin = make_role("server", folder / "a", "127.0.0.1:17999")
    as_dealer = make_role("dealer", folder / "a", "127.0.0.1:17998")
    model = make_model(tmp_path / "model")
    dealer, a, b = (
        load_card(folder / f"{n}.card", k) for n, k in (("dealer", "dealer"), ("a", "server"), ("b", "server"))
    )
    for roles in ((dealer, a, twin), (as_dealer, a, b)):
        with pytest.raises(InputError, match="same identity"):
            deploy(deployable_model(model), *roles, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_deployment_is_not_overwritten(folder):
    before = {path.name: path.read_bytes() for path in (folder / "files").iterdir()}
    printed = deploy_command(folder, "files")
    assert printed.returncode == InputError.exit_code and "already holds a deployment" in printed.stderr
    assert {path.name: path.read_bytes() for path in (folder / "files").iterdir()} == before


def test_a_model_that_does_not_fit_the_ring_is_refused_by_layer(folder, tmp_path):
    model = make_model(tmp_path / "model", norm=1e6)
    cards = [load_card(folder / f"{n}.card", k) for n, k in (("dealer", "dealer"), ("a", "server"), ("b", "server"))]
    with pytest.raises(ModelError, match="Layer `linear`"):
        deploy(deployable_model(model), *cards, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lasting_identity_signs_every_deployment(folder, tmp_path):
    owner = Identity.generate()
    model = make_model(tmp_path / "model", classes=("a", "b", "c"))
    cards = [load_card(folder / f"{n}.card", k) for n, k in (("dealer", "dealer"), ("a", "server"), ("b", "server"))]
    made = deploy(deployable_model(model, coarse=True), *cards, tmp_path / "out", identity=owner)
    assert made.model_owner == owner.public and made.program.answer_fraction == 8
    assert load_public(tmp_path / "out" / PUBLIC).deployment == made
    assert torch.isfinite(model.weight).all()


def altered(path, change, out):
    data = json.loads(path.read_bytes())
    change(data)
    out.write_text(json.dumps(data))
    return out


def flip(data, *keys):
    for key in keys[:-1]:
        data = data[key]
    text = data[keys[-1]]
    place = len(text) // 2
    data[keys[-1]] = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


@pytest.mark.parametrize("role, file", [("dealer", "dealer.json"), ("a", "server-a.json"), ("b", "server-b.json")])
def test_an_altered_sealed_file_is_refused_by_name(folder, tmp_path, role, file):
    verb = "dealer" if role == "dealer" else "serve"
    for key in ("box", "deployment"):
        bad = altered(folder / "files" / file, lambda data, key=key: flip(data, key), tmp_path / file)
        printed = run_primum(verb, bad, "--state", folder / role)
        assert printed.returncode == ModelError.exit_code, printed.stderr
        assert file in printed.stderr and "Traceback" not in printed.stderr


@pytest.mark.parametrize("content", [b"", b"{}", b"\x89PNG", b"[1, 2]"])
def test_a_file_that_is_none_is_refused_by_name(folder, tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    for verb, role in (("dealer", "dealer"), ("serve", "a")):
        printed = run_primum(verb, tmp_path / "x.json", "--state", folder / role)
        assert printed.returncode == 2 and "x.json" in printed.stderr and "Traceback" not in printed.stderr


def test_the_file_of_another_role_says_which_command_it_is_for(folder):
    printed = run_primum("serve", folder / "files" / "dealer.json", "--state", folder / "a")
    assert printed.returncode == 2 and "primum dealer" in printed.stderr
    printed = run_primum("dealer", folder / "files" / "server-a.json", "--state", folder / "dealer")
    assert printed.returncode == 2 and "primum serve" in printed.stderr
    printed = run_primum("serve", folder / "files" / "server-b.json", "--state", folder / "a")
    assert printed.returncode == 2 and "server-b.json" in printed.stderr and "It is for" in printed.stderr


def test_a_state_folder_without_keys_is_named(folder, tmp_path):
    printed = run_primum("serve", folder / "files" / "server-a.json", "--state", tmp_path / "empty")
    assert printed.returncode == 2 and "--init" in printed.stderr


@pytest.mark.parametrize(
    "keys",
    [
        ("deployment", "a", "address"),
        ("deployment", "a", "certificate"),
        ("deployment", "b", "sealing"),
        ("signature",),
        ("card", "task"),
    ],
)
def test_an_altered_public_file_is_refused(folder, tmp_path, keys):
    bad = altered(folder / "files" / PUBLIC, lambda data: flip(data, *keys), tmp_path / "public.json")
    with pytest.raises(InputError, match=r"public\.json"):
        load_public(bad)


def test_an_altered_card_is_refused(folder, tmp_path):
    bad = altered(folder / "a.card", lambda data: data.update(address="203.0.113.9:7411"), tmp_path / "a.card")
    with pytest.raises(PeerError, match="signature"):
        load_card(bad, "server")


@pytest.mark.parametrize("address", ["", "host", ":7", "host:0", "host:70000", "host:x", "[::1]"])
def test_an_address_that_is_none_is_refused(tmp_path, address):
    printed = run_primum("dealer", "--init", tmp_path / "card", "--address", address, "--state", tmp_path / "s")
    assert printed.returncode == 2 and "HOST:PORT" in printed.stderr
    assert not (tmp_path / "card").exists()


def test_keys_are_made_once_and_kept_private(tmp_path):
    one = make_role("server", tmp_path / "s", "127.0.0.1:7411")
    two = make_role("server", tmp_path / "s", "127.0.0.1:7411")
    assert (one.identity, one.sealing, one.certificate) == (two.identity, two.sealing, two.certificate)
    (tmp_path / "s").chmod(0o755)
    load_keys(tmp_path / "s")
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    save_card(one, tmp_path / "card")
    assert b"PRIVATE" not in (tmp_path / "card").read_bytes()
    assert "sealing" not in repr(load_keys(tmp_path / "s"))
