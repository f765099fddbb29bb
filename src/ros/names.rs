//! Fully qualified topic names after remapping.
//!
//! r2r does not expose the resolved name of a subscription or publisher, but queries of the graph
//! need it. The rules are those of rcl: `--remap`, `-r` with `from:=to`, the first match wins, and
//! relative names are in the node's namespace.

use vla_config::parse_remap_rule;

/// The node's name and the remapping rules of the command line.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// `/namespace/name`.
    node: String,
    rules: Vec<(String, String)>,
}

impl Names {
    /// For the node with this fully qualified name, started with these arguments.
    pub fn new(node: &str, arguments: impl IntoIterator<Item = String>) -> Self {
        let own = node.rsplit('/').next().unwrap_or(node);
        let (mut rules, mut of_ros, mut next_is_rule) = (Vec::new(), false, false);
        for argument in arguments {
            match argument.as_str() {
                "--ros-args" => of_ros = true,
                "--" => of_ros = false,
                "-r" | "--remap" if of_ros => next_is_rule = true,
                rule if next_is_rule => {
                    next_is_rule = false;
                    let rule = parse_remap_rule(rule, own);
                    rules.extend(rule.map(|(from, to)| (from.to_owned(), to.to_owned())));
                }
                _ => {}
            }
        }
        Self { node: node.to_owned(), rules }
    }

    /// The full name of a topic that the source names so.
    pub fn resolve(&self, name: &str) -> String {
        let full = self.expand(name);
        self.rules
            .iter()
            .find(|(from, _)| self.expand(from) == full)
            .map_or(full, |(_, to)| self.expand(to))
    }

    fn expand(&self, name: &str) -> String {
        let namespace = self.node.rsplit_once('/').map_or("", |(namespace, _)| namespace);
        if name.starts_with('/') {
            name.to_owned()
        } else if let Some(rest) = name.strip_prefix("~/") {
            format!("{}/{rest}", self.node)
        } else {
            format!("{namespace}/{name}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_resolved_as_by_rcl() {
        let arguments = "vla_node --ros-args -r image:=/cam/image_raw -r __ns:=/robot1 \
            --remap ~/command/twist:=servo -r other:ee_pose:=x -r vla:instruction:=say -p a:=b \
            -r image:=second -- -r ee_pose:=y";
        let names = Names::new("/robot1/vla", arguments.split_whitespace().map(str::to_owned));
        for (name, full) in [
            ("image", "/cam/image_raw"),
            ("~/command/twist", "/robot1/servo"),
            ("ee_pose", "/robot1/ee_pose"),
            ("instruction", "/robot1/say"),
            ("/clock", "/clock"),
            ("~/status", "/robot1/vla/status"),
        ] {
            assert_eq!(names.resolve(name), full);
        }
        assert_eq!(Names::new("/vla", []).resolve("image"), "/image");
    }
}
