"""Clients from PyPI against `openvla serve`: openpi-client, and requests with json-numpy as in
OpenVLA's README. Actions are those of `openvla predict`, to the last bit."""

import base64
import io
import json
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor

import json_numpy
import numpy as np
import requests
from openpi_client import image_tools, websocket_client_policy
from PIL import Image

from server import DATA, ROOT, SCRIPTED, Server, predict, wait_for

json_numpy.patch()

TINY = DATA / "openvla_tiny"
TINY_OPTIONS = ("--checkpoint", TINY / "ckpt", "--unnorm-key", "bridge_orig")
OFT = DATA / "oft_tiny"
OFT_OPTIONS = (
    "--checkpoint",
    OFT / "ckpt",
    "--policy-file",
    ROOT / "config/policies/openvla-oft-libero.yaml",
    "--unnorm-key",
    "libero_spatial_no_noops",
)
PI0 = DATA / "pi0_lerobot_tiny"
PI0_OPTIONS = (
    "--checkpoint",
    PI0 / "ckpt",
    "--tokenizer",
    PI0 / "tokenizer",
    "--seed",
    "7",
)
INSTRUCTION = "pick up the block"


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


class Equality(unittest.TestCase):
    def same(self, answered, predicted):
        """Bits, not differences: float64 on the wire, and JSON that keeps every digit."""
        answered, predicted = np.asarray(answered), np.asarray(predicted)
        self.assertEqual((answered.dtype, answered.shape), (predicted.dtype, predicted.shape))
        self.assertEqual(answered.tobytes(), predicted.tobytes())

    def test_openvla_as_in_its_readme(self):
        path = TINY / "images/07_480x640_RGB.png"
        wanted = predict(*TINY_OPTIONS, "--image", path, "--instruction", INSTRUCTION)["action"]
        with Server(*TINY_OPTIONS) as server:
            action = requests.post(
                f"{server.url}/act", json={"image": pixels(path), "instruction": INSTRUCTION}
            ).json()
            self.same(action, wanted)
            # Where json_numpy cannot be installed: everything as text in a field.
            inner = json.dumps({"image": pixels(path), "instruction": INSTRUCTION})
            answer = requests.post(f"{server.url}/act", json={"encoded": inner}).json()
            self.assertIsInstance(answer, str)
            self.same(json.loads(answer), wanted)
            with_key = {"image": pixels(path), "instruction": INSTRUCTION}
            with_key["unnorm_key"] = "bridge_orig"
            self.same(requests.post(f"{server.url}/act", json=with_key).json(), wanted)
            # openpi's client gives the same numbers.
            client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", server.port)
            self.assertEqual(client.get_server_metadata()["unnorm_key"], "bridge_orig")
            answer = client.infer({"observation/image": pixels(path), "prompt": INSTRUCTION})
            self.same(answer["actions"], [wanted])
            self.assertGreater(answer["server_timing"]["infer_ms"], 0)

    def test_a_jpeg_file_in_place_of_pixels(self):
        with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
            Image.open(TINY / "images/07_480x640_RGB.png").convert("RGB").save(file, "JPEG")
            file.flush()
            options = ("--image", file.name, "--instruction", INSTRUCTION)
            wanted = predict(*TINY_OPTIONS, *options)["action"]
            data = np.fromfile(file.name, dtype=np.uint8)
        with Server(*TINY_OPTIONS) as server:
            body = {"image": data, "instruction": INSTRUCTION}
            self.same(requests.post(f"{server.url}/act", json=body).json(), wanted)
            client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", server.port)
            answer = client.infer({"image": data.tobytes(), "prompt": INSTRUCTION})
            self.same(answer["actions"], [wanted])

    def test_a_simulated_mesh_and_other_precisions(self):
        path = TINY / "images/07_480x640_RGB.png"
        for device in (("--device", "sim:n300", "--precision", "bf16"), ("--precision", "int8")):
            options = (*TINY_OPTIONS, *device)
            wanted = predict(*options, "--image", path, "--instruction", INSTRUCTION)["action"]
            with Server(*options) as server:
                body = {"image": pixels(path), "instruction": INSTRUCTION}
                for _ in range(2):  # the second one executes the captured trace
                    self.same(requests.post(f"{server.url}/act", json=body).json(), wanted)

    def test_openvla_oft_as_its_clients_send(self):
        case = json.loads((OFT / "cases.json").read_text())["cases"][0]
        state = case["proprio"]["raw"]
        paths = {image["camera"]: OFT / image["file"] for image in case["images"]}
        wanted = predict(
            *OFT_OPTIONS,
            *("--image", f"full={paths['full']}", "--image", f"wrist={paths['wrist']}"),
            *(f"--state={','.join(map(repr, state))}", "--instruction", case["instruction"]),
        )["actions"]
        observation = {
            "full_image": pixels(paths["full"]),
            "wrist_image": pixels(paths["wrist"]),
            "state": np.array(state),
            "instruction": case["instruction"],
        }
        with Server(*OFT_OPTIONS) as server:
            actions = requests.post(f"{server.url}/act", json=observation).json()
            self.assertIsInstance(actions, list)
            self.same(actions, wanted)

    def test_pi0_as_openpi_clients_send(self):
        path = PI0 / "images/00_640x480.png"
        base, wrist = pixels(path), pixels(PI0 / "images/02_224x224.png")
        state = np.linspace(-0.5, 0.5, 8)
        wanted = predict(
            *PI0_OPTIONS,
            *("--image", f"base_0_rgb={path}"),
            *("--image", f"left_wrist_0_rgb={PI0 / 'images/02_224x224.png'}"),
            *(f"--state={','.join(map(repr, state.tolist()))}", "--instruction", INSTRUCTION),
        )
        with Server(*PI0_OPTIONS) as server:
            client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", server.port)
            observation = {
                "observation/image": base,
                # Channels first, as LeRobot's data sets have them.
                "observation/wrist_image": np.ascontiguousarray(wrist.transpose(2, 0, 1)),
                "observation/state": state,
                "prompt": INSTRUCTION,
            }
            for _ in range(2):  # a given seed is that of every answer
                answer = client.infer(observation)
                self.same(answer["actions"], wanted["actions"])
                self.assertEqual(answer["seed"], 7)


def connections(server):
    """Open connections, with that of the question."""
    text = requests.get(f"{server.url}/metrics", headers={"connection": "close"}).text
    return int(text.split("\nopenvla_connections ")[1].split()[0])


class Many(unittest.TestCase):
    def test_a_thousand_requests_of_eight_clients(self):
        """Actions depend on the state alone here, so that a mixed-up answer is seen."""
        image = np.zeros((48, 64, 3), np.uint8)
        goal = "move to 1 1 1"

        def act(server, client):
            """125 requests of one client, by two protocols."""
            wrong = 0
            policy = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", server.port)
            session = requests.Session()
            for step in range(125):
                state = np.array([0.01 * client, 0.001 * step, -0.5, 1.0])
                fields = {"image": image, "wrist_image": image, "state": state}
                if step % 2:
                    answer = policy.infer({**fields, "prompt": goal})["actions"]
                else:
                    body = {**fields, "instruction": goal}
                    answer = np.asarray(session.post(f"{server.url}/act", json=body).json())
                towards = np.array([1.0, 1.0, 1.0]) - state[:3]
                step = answer[0][:3]
                # The scripted policy moves on a straight line to the goal.
                wrong += not np.allclose(np.cross(step, towards), 0, atol=1e-9)
                wrong += not np.dot(step, towards) > 0
            # openpi-client has no method that closes.
            policy._ws.close()
            session.close()
            return wrong

        with Server("--checkpoint", SCRIPTED) as server, ThreadPoolExecutor(8) as pool:
            self.assertEqual(sum(pool.map(lambda client: act(server, client), range(8))), 0)
            wait_for(lambda: connections(server) == 1)
            memory, descriptors = server.resident(), server.descriptors()
            self.assertEqual(sum(pool.map(lambda client: act(server, client), range(8))), 0)
            wait_for(lambda: connections(server) == 1)
            self.assertLess(server.resident() - memory, 8 << 20)
            # The connection of the question above is closed a moment after its answer.
            wait_for(lambda: server.descriptors() <= descriptors)
            text = requests.get(f"{server.url}/metrics").text
            for protocol, count in (("act", 1008), ("openpi", 992)):
                line = f'openvla_requests_total{{protocol="{protocol}",outcome="ok"}} {count}'
                self.assertIn(line, text)
            self.assertIn("openvla_inference_seconds_count 2000", text)

    def test_eight_clients_of_a_model(self):
        path = TINY / "images/07_480x640_RGB.png"
        words = [f"pick up block {client}" for client in range(8)]
        wanted = [
            predict(*TINY_OPTIONS, "--image", path, "--instruction", text)["action"]
            for text in words
        ]
        image = pixels(path)
        with Server(*TINY_OPTIONS) as server, ThreadPoolExecutor(8) as pool:

            def act(text):
                body = {"image": image, "instruction": text}
                return [requests.post(f"{server.url}/act", json=body).json() for _ in range(3)]

            for answers, action in zip(pool.map(act, words), wanted, strict=True):
                for answer in answers:
                    self.assertEqual(answer.tobytes(), np.asarray(action).tobytes())


class Keys(unittest.TestCase):
    def test_openpis_client_sends_the_key(self):
        key = "0123456789abcdef"
        options = ("--checkpoint", SCRIPTED)
        with Server(*options, environment={"OPENVLA_API_KEY": key}) as server:
            url = f"ws://127.0.0.1:{server.port}"
            with self.assertRaises(Exception) as refused:
                websocket_client_policy.WebsocketClientPolicy(url, api_key="wrong")
            self.assertIn("401", str(refused.exception))
            client = websocket_client_policy.WebsocketClientPolicy(url, api_key=key)
            self.assertEqual(client.get_server_metadata()["state_dim"], 4)
            self.assertEqual(requests.get(f"{server.url}/metrics").status_code, 401)

    def test_openpis_client_shows_the_reason_of_an_error(self):
        with Server("--checkpoint", SCRIPTED) as server:
            client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", server.port)
            image = image_tools.resize_with_pad(np.zeros((48, 64, 3), np.uint8), 224, 224)
            with self.assertRaisesRegex(RuntimeError, "no picture of camera 'wrist_image'"):
                client.infer({"image": image, "state": np.zeros(4), "prompt": "move to 1 1 1"})


class Wire(unittest.TestCase):
    def test_float32_scalars_and_lists(self):
        """What json_numpy and openpi-client write for scalars, and plain lists."""
        image = np.zeros((4, 4, 3), np.uint8)
        fields = {"image": image, "wrist_image": image, "state": [np.float32(0.5), 0, 0, 1]}
        with Server("--checkpoint", SCRIPTED) as server:
            body = {**fields, "instruction": "move to 1 0 0"}
            first = requests.post(f"{server.url}/act", json=body).json()
            client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", server.port)
            second = client.infer({**fields, "prompt": "move to 1 0 0"})["actions"]
            self.assertEqual(np.asarray(first).tobytes(), second.tobytes())

    def test_without_any_package(self):
        """The form of the answer, for clients that decode it themselves."""
        buffer = io.BytesIO()
        Image.new("RGB", (8, 6), (1, 2, 3)).save(buffer, "PNG")
        data = np.frombuffer(buffer.getvalue(), np.uint8)
        with Server("--checkpoint", SCRIPTED) as server:
            fields = {"image": data, "wrist_image": data, "state": [0, 0, 0, 1]}
            body = json_numpy.dumps({**fields, "instruction": "move to 1 0 0"})
            text = requests.post(f"{server.url}/act", data=body).text
        # json.loads is patched: the plain decoder.
        rows = json.JSONDecoder().decode(text)
        self.assertEqual(len(rows), 16)
        self.assertEqual((rows[0]["dtype"], rows[0]["shape"]), ("<f8", [7]))
        self.assertEqual(len(base64.b64decode(rows[0]["__numpy__"])), 56)


if __name__ == "__main__":
    unittest.main()
