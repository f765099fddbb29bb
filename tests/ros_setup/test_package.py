"""What ROS tools read: manifests, messages and the launch file."""

import re
import sys
import tempfile
import pathlib
import subprocess
import unittest
import xml.etree.ElementTree

import yaml
from openvla_tt_msgs.msg import Action, Status

from tree import ROOT, shell

STATES = ["UNCONFIGURED", "INACTIVE", "IDLE", "RUNNING", "HOLDING", "FAULT", "ESTOPPED"]


def manifest(path: str) -> xml.etree.ElementTree.Element:
    return xml.etree.ElementTree.parse(ROOT / path).getroot()


def idl_packages() -> list[str]:
    """Names of the packages that r2r generates Rust for."""
    return shell('. tools/ros/lib.sh; echo "$OPENVLA_IDL_PACKAGES"').stdout.strip().split(";")


class Messages(unittest.TestCase):
    """The public interfaces: names and types that others rely on."""

    def test_action_has_the_fields_promised(self):
        fields = Action.get_fields_and_field_types()
        for name, kind in {
            "header": "std_msgs/Header",
            "generation": "uint64",
            "instruction": "string",
            "unnorm_key": "string",
            "token_ids": "sequence<uint32>",
            "normalized": "sequence<double>",
            "action": "sequence<double>",
            "policy_hz": "double",
            "device": "string",
            "precision": "string",
            "stage_names": "sequence<string>",
            "stage_ms": "sequence<float>",
        }.items():
            self.assertEqual(fields.get(name), kind, name)

    def test_status_has_the_fields_promised(self):
        fields = Status.get_fields_and_field_types()
        for name, kind in {
            "header": "std_msgs/Header",
            "state": "uint8",
            "reason": "uint16",
            "detail": "string",
            "image_age_s": "double",
            "inference_ms": "double",
            "command_hz": "double",
            "images_received": "uint64",
            "images_dropped": "uint64",
            "inferences": "uint64",
            "late_results": "uint64",
            "interventions": "sequence<uint64>",
            "intervention_names": "sequence<string>",
        }.items():
            self.assertEqual(fields.get(name), kind, name)

    def test_constants_are_distinct(self):
        text = (ROOT / "msg/msg/Status.msg").read_text()
        states = re.findall(r"^uint8 ([A-Z_]+) = (\d+)", text, re.M)
        self.assertEqual([name for name, _ in states], STATES)
        self.assertEqual([int(value) for _, value in states], list(range(7)))
        reasons = re.findall(r"^uint16 REASON_([A-Z_]+) = (\d+)", text, re.M)
        self.assertGreater(len(reasons), 25)
        self.assertEqual(len({value for _, value in reasons}), len(reasons))
        for name, value in reasons:
            self.assertEqual(getattr(Status, f"REASON_{name}"), int(value), name)

    def test_every_field_and_constant_is_explained(self):
        for path in sorted((ROOT / "msg/msg").glob("*.msg")):
            explained = False
            for line in path.read_text().splitlines():
                if line.startswith("#"):
                    explained = True
                elif not line.strip():
                    explained = False
                elif "=" in line.split("#")[0]:
                    self.assertIn("#", line, f"{path.name}: {line}")
                else:
                    # `state` and `reason` stand below their constants.
                    self.assertTrue(
                        explained or re.match(r"uint(8|16) (state|reason)$", line),
                        f"{path.name}: {line}",
                    )

    def test_broken_message_is_an_error(self):
        if "jazzy-" not in sys.prefix:
            self.skipTest("a sourced ROS 2 builds messages by CMake")
        with tempfile.TemporaryDirectory() as folder:
            package = pathlib.Path(folder)
            (package / "msg").mkdir()
            (package / "package.xml").write_text((ROOT / "msg/package.xml").read_text())
            (package / "msg/Action.msg").write_text("uint99 wrong\n")
            done = subprocess.run(
                [sys.executable, ROOT / "tools/ros/messages.py", package, package / "out"],
                capture_output=True,
                text=True,
            )
        self.assertEqual(done.returncode, 1)
        self.assertIn("uint99", done.stderr)


class Manifests(unittest.TestCase):
    def test_names_versions_and_licences_agree(self):
        version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
        for path, name in (("package.xml", "openvla_tt"), ("msg/package.xml", "openvla_tt_msgs")):
            root = manifest(path)
            self.assertEqual(root.get("format"), "3")
            self.assertEqual(
                [root.findtext(tag) for tag in ("name", "version", "license")],
                [name, version, "Apache-2.0"],
            )
            self.assertEqual(root.findtext("export/build_type"), "ament_cmake")
            project = re.search(
                r"^project\((\w+)", (ROOT / path).with_name("CMakeLists.txt").read_text(), re.M
            ).group(1)
            self.assertEqual(project, name)

    def test_messages_used_are_dependencies(self):
        listed = idl_packages()
        cmake = (
            re.search(r"set\(packages ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())
            .group(1)
            .split()
        )
        self.assertEqual(listed, cmake)
        depends = {element.text for element in manifest("package.xml").findall("depend")}
        # Those that only others need come with them.
        nested = {
            "action_msgs",
            "service_msgs",
            "type_description_interfaces",
            "unique_identifier_msgs",
        }
        self.assertEqual(set(listed) - depends, nested)

    def test_rust_sources_name_only_listed_packages(self):
        listed = idl_packages()
        for folder in ("src", "tests"):
            for path in (ROOT / folder).rglob("*.rs"):
                for package in re.findall(
                    r"r2r::([a-z_]+)::(?:msg|srv|action)\b", path.read_text()
                ):
                    self.assertIn(package, listed, path)


class LaunchFile(unittest.TestCase):
    def setUp(self):
        self.text = (ROOT / "launch/vla.launch.yaml").read_text()
        entries = yaml.safe_load(self.text)["launch"]
        self.arguments = {entry["arg"]["name"]: entry["arg"] for entry in entries if "arg" in entry}
        self.nodes = [entry["node"] for entry in entries if "node" in entry]
        self.assertEqual(
            len(self.arguments) + len(self.nodes),
            len(entries),
            "arguments and nodes only: no logic",
        )

    def test_every_argument_is_explained_and_used(self):
        used = set(re.findall(r"\$\(var (\w+)\)", self.text))
        self.assertEqual(used, set(self.arguments))
        for name, argument in self.arguments.items():
            self.assertGreater(len(argument["description"]), 15, name)
            self.assertNotEqual(
                "default" in argument,
                name == "checkpoint",
                f"{name}: only the checkpoint is required",
            )
            if "default" in argument:
                self.assertIsInstance(argument["default"], str, f"{name}: launch takes text")

    def test_the_node_is_ours_and_starts_silent(self):
        (node,) = self.nodes
        self.assertEqual(
            (node["pkg"], node["exec"], node["name"]), ("openvla_tt", "vla_node", "vla")
        )
        self.assertEqual(self.arguments["dry_run"]["default"], "true")
        self.assertEqual(self.arguments["autostart"]["default"], "false")

    def test_parameters_have_types(self):
        (node,) = self.nodes
        for parameter in node["param"]:
            if "name" in parameter:
                self.assertIn(parameter["type"], ("str", "int", "float", "bool"), parameter)
                self.assertEqual(parameter["value"], f"$(var {parameter['name']})")

    def test_the_parameter_file_exists(self):
        default = self.arguments["params_file"]["default"].replace(
            "$(find-pkg-share openvla_tt)", str(ROOT)
        )
        parameters = yaml.safe_load(pathlib.Path(default).read_text())["/**"]["ros__parameters"]
        for axes in ("linear", "angular"):
            self.assertEqual(set(parameters["limits"][axes]), {"velocity", "acceleration", "jerk"})

    def test_launch_itself_reads_it(self):
        try:
            from launch import LaunchDescription  # noqa: F401
            from launch.frontend import Parser
        except ImportError:
            self.skipTest("launch is not among the wheels; a sourced ROS 2 has it")
        entity, parser = Parser.load(str(ROOT / "launch/vla.launch.yaml"))
        description = parser.parse_description(entity)
        self.assertEqual(
            {argument.name for argument in description.get_launch_arguments()}, set(self.arguments)
        )


class ReplayLaunchFile(unittest.TestCase):
    def setUp(self):
        self.text = (ROOT / "launch/replay.launch.yaml").read_text()
        entries = yaml.safe_load(self.text)["launch"]
        self.arguments = {entry["arg"]["name"]: entry["arg"] for entry in entries if "arg" in entry}
        (self.include,) = (entry["include"] for entry in entries if "include" in entry)
        (self.player,) = (entry["executable"] for entry in entries if "executable" in entry)

    def test_every_argument_is_explained_and_used(self):
        self.assertEqual(set(re.findall(r"\$\(var (\w+)\)", self.text)), set(self.arguments))
        for name, argument in self.arguments.items():
            self.assertGreater(len(argument["description"]), 15, name)
            self.assertNotEqual(
                "default" in argument,
                name in ("bag", "checkpoint"),
                f"{name}: only bag and checkpoint are required",
            )

    def test_the_node_is_given_arguments_it_has_and_commands_nothing(self):
        entries = yaml.safe_load((ROOT / "launch/vla.launch.yaml").read_text())["launch"]
        known = {entry["arg"]["name"] for entry in entries if "arg" in entry}
        given = {argument["name"]: argument["value"] for argument in self.include["arg"]}
        self.assertLessEqual(set(given), known)
        self.assertEqual(
            [given[name] for name in ("dry_run", "autostart", "use_sim_time")], ["true"] * 3
        )

    def test_only_image_and_instruction_are_played(self):
        command = self.player["cmd"]
        self.assertTrue(command.startswith("ros2 bag play $(var bag) ") and "--clock" in command)
        self.assertTrue(
            command.endswith("--topics $(var played_image_topic) $(var instruction_topic)"), command
        )

    def test_the_instruction_is_offered_as_the_node_asks(self):
        overrides = yaml.safe_load((ROOT / "launch/replay_qos.yaml").read_text())
        default = self.arguments["instruction_topic"]["default"]
        self.assertEqual(overrides[default]["durability"], "transient_local")
        self.assertEqual(
            self.arguments["qos"]["default"], "$(find-pkg-share openvla_tt)/launch/replay_qos.yaml"
        )

    def test_launch_itself_reads_it(self):
        try:
            from launch.frontend import Parser
        except ImportError:
            self.skipTest("launch is not among the wheels; a sourced ROS 2 has it")
        entity, parser = Parser.load(str(ROOT / "launch/replay.launch.yaml"))
        parser.parse_description(entity)


if __name__ == "__main__":
    unittest.main()
