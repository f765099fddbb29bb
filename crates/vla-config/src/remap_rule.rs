//! Remapping rules of the command line, by the grammar of rcl.

/// The two names of a topic rule, `[NODE:][rostopic://]FROM:=TO`, as written; `None` for a rule
/// of another node, of services, or of the node's own name or namespace.
#[must_use]
pub fn parse_remap_rule<'a>(rule: &'a str, node_name: &str) -> Option<(&'a str, &'a str)> {
    let (from, to) = rule.split_once(":=")?;
    let from = match from.split_once(':') {
        // The colon of `rostopic://` ends no node name.
        Some((name, rest)) if !rest.starts_with("//") => (name == node_name).then_some(rest)?,
        _ => from,
    };
    let from = from.strip_prefix("rostopic://").unwrap_or(from);
    let other = from.starts_with("__") || from.starts_with("rosservice://");
    (!other).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remap_rules_are_read_as_by_rcl() {
        for (rule, from) in [
            ("image:=/x", Some("image")),
            ("~/command/twist:=/x", Some("~/command/twist")),
            ("vla:image:=/x", Some("image")),
            ("other:image:=/x", None),
            ("rostopic://image:=/x", Some("image")),
            ("rostopic:///image:=/x", Some("/image")),
            ("vla:rostopic://image:=/x", Some("image")),
            ("other:rostopic://image:=/x", None),
            ("rosservice://image:=/x", None),
            ("vla:rosservice://image:=/x", None),
            ("__ns:=/x", None),
            ("vla:__node:=/x", None),
            ("image", None),
        ] {
            assert_eq!(parse_remap_rule(rule, "vla"), from.map(|from| (from, "/x")), "{rule}");
        }
    }
}
