"""What ROS tools read: manifests, messages and the launch file."""

import os
import re
import sys
import tempfile
import pathlib
import subprocess
import unittest
import xml.etree.ElementTree

import yaml
from openvla_tt_msgs.action import RunPolicy
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

    def test_run_policy_has_the_fields_promised(self):
        for part, fields in {
            RunPolicy.Goal: {
                "instruction": "string",
                "time_limit_s": "double",
                "enable": "boolean",
                "preempt": "boolean",
                "stop_when_stalled": "boolean",
                "stop_on_done": "boolean",
                "stop_in_box": "boolean",
                "box_min": "double[3]",
                "box_max": "double[3]",
                "stop_when_holding": "boolean",
                "holding_opening": "double",
                "holding_time_s": "double",
            },
            RunPolicy.Result: {
                "outcome": "uint8",
                "reason": "uint16",
                "detail": "string",
                "elapsed_s": "double",
                "time_to_rest_s": "double",
                "path_m": "double",
                "inferences": "uint64",
            },
            RunPolicy.Feedback: {
                "state": "uint8",
                "reason": "uint16",
                "detail": "string",
                "elapsed_s": "double",
                "path_m": "double",
                "inferences": "uint64",
                "generation": "uint64",
                "steps": "uint64",
            },
        }.items():
            self.assertEqual(part.get_fields_and_field_types(), fields, part)

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
        nested = {"service_msgs", "type_description_interfaces"}
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
        (group,) = (entry["group"] for entry in entries if "group" in entry)
        self.assertEqual(len(self.arguments) + 1, len(entries), "arguments and one scope")
        self.parameters = [entry["set_parameter"] for entry in group if "set_parameter" in entry]
        self.remaps = [entry["set_remap"] for entry in group if "set_remap" in entry]
        (self.node,) = (entry["node"] for entry in group if "node" in entry)

    def test_every_argument_is_explained_and_used(self):
        used = set(re.findall(r"\$\(var (\w+)\)", self.text))
        self.assertEqual(used, set(self.arguments))
        for name, argument in self.arguments.items():
            self.assertGreater(len(argument["description"]), 15, name)
            self.assertIsInstance(argument["default"], str, f"{name}: launch takes text")

    def test_what_was_not_given_is_not_passed_on(self):
        for entry in self.parameters + self.remaps:
            (name, *_) = re.findall(r"\$\(var (\w+)\)", entry.get("value") or entry["to"])
            self.assertEqual(self.arguments[name]["default"], "", name)
            self.assertEqual(entry["if"], f'$(eval \'"$(var {name})" != ""\')')
        self.assertGreater(len(self.parameters), 15)
        self.assertEqual(len(self.remaps), 6)

    def test_parameters_are_the_nodes(self):
        table = (ROOT / "docs/parameters.md").read_text()
        for entry in self.parameters:
            self.assertEqual(entry["value"], f"$(var {entry['name']})")
            self.assertIn(f"| `{entry['name']}` |", table)

    def test_the_node_has_its_name_log_level_and_file(self):
        self.assertEqual((self.node["pkg"], self.node["exec"]), ("openvla_tt", "vla_node"))
        self.assertEqual(
            (self.node["name"], self.node["namespace"]), ("$(var name)", "$(var namespace)")
        )
        # rcl refuses a missing file; launch's own `param: from` starts the node without it.
        self.assertNotIn("param", self.node)
        self.assertIn("--params-file $(var params_file)", self.node["args"])
        self.assertIn(":=$(var log_level)", self.node["args"])

    def test_the_default_parameter_file_gives_nothing(self):
        default = self.arguments["params_file"]["default"].replace(
            "$(find-pkg-share openvla_tt)", str(ROOT)
        )
        text = pathlib.Path(default).read_text()
        self.assertIsNone(yaml.safe_load(text))
        # The template in it is a parameter file once its marks are taken away.
        template = "\n".join(line[2:] for line in text.splitlines() if line.startswith("# "))
        template = yaml.safe_load(template[template.index("/**") :])
        self.assertEqual(
            template["/**/vla"]["ros__parameters"]["limits"]["linear"], {"velocity": 0.025}
        )

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


class RealLaunch(unittest.TestCase):
    """`ros2 launch` itself, with a node that prints its arguments."""

    def arguments(self, file, *given):
        try:
            import launch_ros  # noqa: F401
            import ros2launch  # noqa: F401
        except ImportError:
            self.skipTest("ros2 launch is not among the wheels; a sourced ROS 2 has it")
        with tempfile.TemporaryDirectory() as folder:
            prefix = pathlib.Path(folder)
            index = prefix / "share/ament_index/resource_index/packages"
            node = prefix / "lib/openvla_tt/vla_node"
            for made in (index, node.parent, prefix / "share/openvla_tt"):
                made.mkdir(parents=True)
            (index / "openvla_tt").touch()
            (prefix / "share/openvla_tt/launch").symlink_to(ROOT / "launch")
            node.write_text('#!/bin/sh\nfor a in "$@"; do printf "[%s]" "$a"; done; echo\n')
            node.chmod(0o755)
            path = f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}"
            main = (
                "import sys; from ros2cli.cli import main; sys.argv[0] = 'ros2'; sys.exit(main())"
            )
            done = subprocess.run(
                [sys.executable, "-c", main, "launch", ROOT / "launch" / file, *given],
                capture_output=True,
                text=True,
                env={**os.environ, "AMENT_PREFIX_PATH": path, "ROS_LOG_DIR": folder},
                timeout=60,
            )
        (line,) = re.findall(r"^\[vla_node-1\] (\[.*)$", done.stdout, re.M)
        return re.findall(r"\[([^]]*)\]", line)

    def test_nothing_is_passed_on_that_was_not_given(self):
        arguments = self.arguments("vla.launch.yaml", "checkpoint:=/k")
        self.assertEqual(
            [rule for flag, rule in zip(arguments, arguments[1:]) if flag == "-p"],
            ["checkpoint:=/k"],
        )
        rules = [rule for flag, rule in zip(arguments, arguments[1:]) if flag == "-r"]
        self.assertEqual(rules, ["__node:=vla", "__ns:=/"])
        self.assertEqual(arguments[arguments.index("--log-level") + 1], "vla:=info")

    def test_what_was_given_is_passed_on(self):
        arguments = self.arguments(
            "vla.launch.yaml",
            "checkpoint:=/k",
            "dry_run:=false",
            "observation_timeout_s:=0.2",
            "namespace:=/robot1",
            "name:=arm",
            "image_topic:=/cam/compressed",
            "twist_topic:=/tw",
            "params_file:=/no/such.yaml",
            "log_level:=debug",
        )
        for wanted in (
            "dry_run:=False",
            "observation_timeout_s:=0.2",
            "__ns:=/robot1",
            "__node:=arm",
            "image:=/cam",
            "image/compressed:=/cam/compressed",
            "~/command/twist:=/tw",
            "robot1.arm:=debug",
        ):
            self.assertIn(wanted, arguments)
        self.assertEqual(arguments[arguments.index("--params-file") + 1], "/no/such.yaml")


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
