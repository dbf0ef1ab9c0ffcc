"""What strangers and broken peers get: a refusal at the door, while everybody else is served."""

import asyncio
import http.client
import json
import socket
import ssl

import msgspec
import pytest
from tests.diagnosis.conftest import Proxy, images

from primum.diagnosis.channel import Channel, connect, granted
from primum.diagnosis.client import Servers, run
from primum.diagnosis.data_owner import ImagePath, diagnose
from primum.diagnosis.files import to_json
from primum.diagnosis.lane import open_lane
from primum.diagnosis.messages import Deal, Dealt, Ready, Sorry, Welcome, request_limit
from primum.diagnosis.requests import make_requests
from primum.diagnosis.roles import load_keys, make_role
from primum.diagnosis.session import accept, hello
from primum.errors import PeerError, Refused, Unavailable
from primum.keys.agreement import KeyPair
from primum.keys.certificate import client_context
from primum.keys.sealing import SealingKey


def post(cluster, role, body, headers=None):
    """(status, answer) of a raw POST to a server."""
    deployment = cluster.public.deployment
    card = deployment.server(role)
    host, port = card.address.split(":")
    connection = http.client.HTTPSConnection(host, int(port), context=client_context(card.certificate), timeout=30)
    try:
        connection.request("POST", "/v1/requests", body, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def requests_for(cluster, batch):
    way = ImagePath.of(cluster.public)
    key = SealingKey.generate()
    return make_requests(way.inputs(batch), cluster.public.deployment, key.public), key


def ask(deployment, requests):
    async def work():
        async with Servers(deployment) as servers:
            return await servers.ask(requests)

    return run(work)


def still_serves(cluster):
    return len(diagnose(images(1), cluster.public)) == 1


@pytest.mark.parametrize("role", ["A", "B"])
@pytest.mark.parametrize("body", [b"", b"hello", b"\x00\xff" * 100, b'{"kind":"Answer"}', b"[" * 10_000])
def test_garbage_over_https_is_refused_with_a_reason(cluster, role, body):
    status, answer = post(cluster, role, body)
    assert status == 400 and answer["code"] == "PeerError" and "malformed" in answer["message"]
    assert still_serves(cluster)


def test_a_huge_request_is_refused_before_it_is_read(cluster):
    def endless():
        for _ in range(2000):
            yield b"x" * 100_000

    size = request_limit(cluster.public.deployment.program) + 1
    status, answer = post(cluster, "A", b"x" * size)
    assert status == 400 and "longer than" in answer["message"]
    try:
        status, _ = post(cluster, "A", endless(), {"transfer-encoding": "chunked"})
        assert status == 400
    except OSError:
        pass  # the server closed while we were still sending
    assert still_serves(cluster)


def test_a_request_is_run_once(cluster):
    requests, _ = requests_for(cluster, images(1))
    ask(cluster.public.deployment, requests)
    with pytest.raises(Refused, match="sent before"):
        ask(cluster.public.deployment, requests)
    for request in requests:
        status, answer = post(cluster, request.server, to_json(request))
        assert status == 409 and answer["code"] == "Refused"


def test_the_same_request_twice_at_the_same_time_is_run_once(cluster):
    requests, _ = requests_for(cluster, images(1))

    async def work():
        async with Servers(cluster.public.deployment) as one, Servers(cluster.public.deployment) as two:
            return await asyncio.gather(one.ask(requests), two.ask(requests), return_exceptions=True)

    results = run(work)
    assert sum(isinstance(result, Refused) for result in results) >= 1
    assert still_serves(cluster)


def test_an_altered_request_is_refused(cluster):
    (a, b), _ = requests_for(cluster, images(1))
    bad = msgspec.structs.replace(a, box=a.box[:-1] + bytes([a.box[-1] ^ 1]))
    with pytest.raises(PeerError, match="contradicts itself"):
        ask(cluster.public.deployment, (bad, b))
    status, answer = post(cluster, "A", to_json(b))
    assert status == 400 and "for server B" in answer["message"]


def test_halves_of_two_requests_are_never_joined(cluster):
    """Server A holds one request, B another: neither runs."""
    one, _ = requests_for(cluster, images(1))
    two, _ = requests_for(cluster, images(1))
    with pytest.raises(Unavailable, match="has not received its half"):
        ask(cluster.public.deployment, (one[0], two[1]))
    assert still_serves(cluster)


def test_another_certificate_is_refused_by_the_data_owner(cluster, tmp_path):
    deployment = cluster.public.deployment
    stranger = make_role("server", tmp_path / "stranger", deployment.a.address)
    changed = msgspec.structs.replace(
        deployment, a=msgspec.structs.replace(deployment.a, certificate=stranger.certificate)
    )
    requests, _ = requests_for(cluster, images(1))
    with pytest.raises(PeerError, match="does not show the certificate"):
        ask(changed, requests)


def test_tls_below_1_3_is_refused(cluster):
    deployment = cluster.public.deployment
    for address in (deployment.a.address, deployment.b.link, deployment.dealer.address):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), 5) as plain, pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(plain).recv(1)


@pytest.mark.parametrize("where", ["dealer", "B"])
@pytest.mark.parametrize("show", [True, False], ids=["another certificate", "no certificate"])
def test_a_stranger_is_not_let_in_to_dealer_and_b(cluster, tmp_path, where, show):
    deployment = cluster.public.deployment
    address = deployment.dealer.address if where == "dealer" else deployment.b.link
    card = deployment.dealer if where == "dealer" else deployment.b
    make_role("server", tmp_path / "stranger", "127.0.0.1:7411")
    own = load_keys(tmp_path / "stranger").tls if show else None

    async def work():
        channel = await connect(address, card.certificate, own, "the peer", 1 << 20)
        try:
            await channel.send(hello(deployment, "A", 0, KeyPair.generate()))
            await channel.receive(Welcome)
        finally:
            channel.close()
            await asyncio.sleep(0.05)  # the loop closes the socket

    with pytest.raises((PeerError, Unavailable)):
        run(work)
    assert still_serves(cluster)


def as_role(cluster, role, where, act):
    """Connect to the dealer or to B with the real certificate of `role`, and do `act`."""
    deployment = cluster.public.deployment
    card = deployment.dealer if where == "dealer" else deployment.b
    address = card.address if where == "dealer" else card.link

    async def work():
        own = load_keys(cluster.folder / role).tls
        channel = await connect(address, card.certificate, own, "the peer", 1 << 20)
        try:
            return await act(channel)
        finally:
            channel.close()
            await asyncio.sleep(0.05)  # the loop closes the socket

    return run(work)


async def huge_frame(channel: Channel):
    channel._writer.write((1 << 31).to_bytes(4, "big") + b"x" * 1000)
    await channel.receive(Welcome)


async def garbage(channel: Channel):
    channel._writer.write((100).to_bytes(4, "big") + b"\xff" * 100)
    await channel.receive(Welcome)


async def wrong_message(channel: Channel):
    await channel.send(Ready(bytes(32)))
    await channel.receive(Welcome)


async def silence(channel: Channel):
    channel._writer.write((100).to_bytes(4, "big") + b"\xff")
    channel._writer.write_eof() if channel._writer.can_write_eof() else channel._writer.close()
    await channel.receive(Welcome)


@pytest.mark.parametrize("where", ["dealer", "B"])
def test_a_server_that_says_it_is_the_other_one_is_refused(cluster, where):
    async def act(channel):
        await channel.send(hello(cluster.public.deployment, "B", 0, KeyPair.generate()))
        await channel.expect(Welcome)

    with pytest.raises(PeerError, match="is server B"):
        as_role(cluster, "A", where, act)
    assert still_serves(cluster)


@pytest.mark.parametrize("where", ["dealer", "B"])
@pytest.mark.parametrize("act", [huge_frame, garbage, wrong_message, silence])
def test_a_server_that_sends_garbage_is_cut_off_and_the_others_go_on(cluster, where, act):
    with pytest.raises((PeerError, Unavailable)):
        as_role(cluster, "A", where, act)
    assert still_serves(cluster)


def test_a_may_not_ask_for_bs_material_and_no_number_is_dealt_twice(own_cluster):
    """With A's certificate one cannot deal; with B's, not a used number, nor for keys that are not in use."""
    cluster = own_cluster.start()
    (one,) = diagnose(images(1), cluster.public)
    deployment = cluster.public.deployment

    def deal(certificate_of, role, first, sessions=(bytes(32), bytes(32))):
        own, card = load_keys(cluster.folder / certificate_of).tls, deployment.dealer

        async def act(channel):
            keys = KeyPair.generate()
            await channel.send(hello(deployment, role, 0, keys))
            session = accept(deployment, role, await channel.expect(Welcome), 0, keys, "the peer")
            return await asyncio.to_thread(on_lane, session.id)

        def on_lane(session):
            lane = open_lane(card.address, card.certificate, own, "the peer", session)
            try:
                lane.send_message(Deal(first, 1, sessions))
                return granted(lane.receive_one_of(Dealt, Sorry), Dealt, "the peer")
            finally:
                lane.close()

        return as_role(cluster, certificate_of, "dealer", act)

    with pytest.raises(Unavailable, match="has connected to the dealer anew"):
        deal("B", "B", one.number)
    with pytest.raises((PeerError, Unavailable), match=r"ended the connection|closed the connection"):
        deal("A", "A", 100)
    with pytest.raises(PeerError, match="says that it is server B"):
        deal("A", "B", 100)


def marker_and_secrets(cluster, batch):
    """Byte strings that must be on no wire: pixels, features and weights, in every form they have here."""
    from primum.compiler.linear import linear_program
    from primum.mpc.share import to_bytes
    from primum.ring import encode

    program = cluster.public.deployment.program
    features = ImagePath.of(cluster.public).inputs(batch)
    weight = cluster.model.weight.numpy()
    forms = [
        batch.numpy().tobytes(),
        (batch.numpy() * 255).astype("uint8").tobytes(),
        features.tobytes(),
        to_bytes(encode(features, program.wire(program.input).fraction, program.bits), program.bits).tobytes(),
        weight.tobytes(),
        to_bytes(linear_program(weight)[1], program.bits).tobytes(),
    ]
    import base64

    pieces = [form[start : start + 24] for form in forms for start in range(0, len(form) - 24, max(24, len(form) // 9))]
    return pieces + [base64.b64encode(piece) for piece in pieces]


def found(recorded, pieces):
    data = bytes(recorded)
    return [piece for piece in pieces if piece in data]


def test_no_byte_on_any_wire_shows_image_features_or_weights(tmp_path):
    """Every connection runs through a recording proxy; what is planted in one of them is found."""
    from tests.diagnosis.conftest import Cluster

    proxies: list[Proxy] = []

    def through(address):
        proxies.append(Proxy(address))
        return proxies[-1].address

    cluster = Cluster.make(tmp_path, via=through)
    batch = images(3)
    pieces = marker_and_secrets(cluster, batch)
    try:
        cluster.start()
        diagnose(batch, cluster.public)
        carrying = [proxy for proxy in proxies if proxy.recorded]
        assert len(carrying) == 4  # dealer, A, B, and B's link; A's link is not used
        for proxy in carrying:
            assert len(proxy.recorded) > 2000
            assert found(proxy.recorded, pieces) == []
        host, port = proxies[1].address.split(":")
        with socket.create_connection((host, int(port)), 5) as plain:
            plain.sendall(pieces[0])
            plain.recv(1)
        assert found(proxies[1].recorded, pieces) == [pieces[0]]
    finally:
        cluster.stop()
        for proxy in proxies:
            proxy.close()


def test_no_request_or_answer_in_json_shows_image_features_or_weights(cluster):
    """Below TLS: what a web server, a proxy that ends TLS, or a carrier would see."""
    batch = images(2)
    pieces = marker_and_secrets(cluster, batch)
    requests, _ = requests_for(cluster, batch)
    (a, b), _ = ask(cluster.public.deployment, requests)
    seen = b"".join(to_json(message) for message in (*requests, a, b))
    assert found(seen, pieces) == []
    assert found(seen + pieces[-1], pieces) == [pieces[-1]]
