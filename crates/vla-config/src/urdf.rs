//! Joint limits of a URDF file.

use std::path::Path;

use super::FILE_BYTES_MAX;

/// Largest URDF file read, bytes. That of a mobile robot with two arms has about 200 kB.
const URDF_BYTES_MAX: u64 = 64 * FILE_BYTES_MAX;

/// A moving joint of a URDF.
#[derive(Debug, Clone, PartialEq)]
pub struct UrdfJoint {
    /// Name.
    pub name: String,
    /// Whether it turns without end.
    pub continuous: bool,
    /// `lower` and `upper` of its limit, radians or metres.
    pub position: Option<[f64; 2]>,
    /// `velocity` of its limit, per second.
    pub velocity: Option<f64>,
}

/// The joints of the types revolute, prismatic and continuous.
///
/// # Errors
/// In one line: the file, what is wrong with it, and what to do.
pub fn joints(path: &Path) -> Result<Vec<UrdfJoint>, String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    if !size.is_file() || URDF_BYTES_MAX < size.len() {
        return Err(format!("{shown} is no regular file of at most {URDF_BYTES_MAX} bytes"));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {shown}: {error}; name a URDF file"))?;
    parse(&text).map_err(|message| format!("{shown}: {message}"))
}

fn parse(text: &str) -> Result<Vec<UrdfJoint>, String> {
    // Entities are refused by the parser's default options: a small file stays small.
    let document = roxmltree::Document::parse(text)
        .map_err(|error| format!("is not valid XML: {error}; name a URDF file"))?;
    let robot = document.root_element();
    if robot.tag_name().name() != "robot" {
        return Err(format!("is no URDF: its root is <{}>", robot.tag_name().name()));
    }
    let xacro = |node: roxmltree::Node<'_, '_>| {
        node.tag_name().namespace().is_some_and(|space| space.contains("xacro"))
    };
    if robot.descendants().any(xacro) {
        return Err("is a xacro file; expand it: xacro IN.xacro > OUT.urdf".into());
    }
    let children = robot.children().filter(|node| node.has_tag_name("joint"));
    children.filter_map(|node| joint(node).transpose()).collect()
}

/// `None` for a joint that does not move.
fn joint(node: roxmltree::Node<'_, '_>) -> Result<Option<UrdfJoint>, String> {
    let name = node.attribute("name").ok_or("has a joint without a name")?.to_owned();
    let kind = node.attribute("type").unwrap_or_default();
    if !matches!(kind, "revolute" | "prismatic" | "continuous") {
        return Ok(None);
    }
    let limit = node.children().find(|child| child.has_tag_name("limit"));
    let value = |key: &str| -> Result<Option<f64>, String> {
        let Some(text) = limit.and_then(|limit| limit.attribute(key)) else { return Ok(None) };
        match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(format!(
                "joint '{}': limit {key}=\"{}\" is no number",
                name.escape_debug(),
                text.chars().take(40).collect::<String>().escape_debug()
            )),
        }
    };
    let (lower, upper) = (value("lower")?, value("upper")?);
    let continuous = kind == "continuous";
    let position = match (lower, upper) {
        _ if continuous => None,
        // URDF: a limit that is left out is 0.
        _ if limit.is_none() => None,
        (lower, upper) => Some([lower.unwrap_or(0.0), upper.unwrap_or(0.0)]),
    };
    let position = position.filter(|[lower, upper]| lower < upper);
    // A velocity of 0 is a filler of exporters.
    let velocity = value("velocity")?.filter(|velocity| *velocity > 0.0);
    Ok(Some(UrdfJoint { name, continuous, position, velocity }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ARM: &str = r#"<robot name="arm">
        <joint name="base" type="fixed"/>
        <joint name="shoulder" type="revolute">
            <limit lower="-1.5" upper="2" velocity="3.1"/>
        </joint>
        <joint name="wrist" type="continuous"><limit effort="1" velocity="0"/></joint>
        <joint name="rail" type="prismatic"><limit upper="0.4" velocity="0.2"/></joint>
    </robot>"#;

    #[test]
    fn limits_are_read() {
        let joints = parse(ARM).unwrap();
        let names: Vec<&str> = joints.iter().map(|joint| joint.name.as_str()).collect();
        assert_eq!(names, ["shoulder", "wrist", "rail"]);
        assert_eq!((joints[0].position, joints[0].velocity), (Some([-1.5, 2.0]), Some(3.1)));
        assert!(joints[1].continuous && joints[1].position.is_none());
        assert_eq!(joints[1].velocity, None);
        assert_eq!(joints[2].position, Some([0.0, 0.4]));
    }

    #[test]
    fn what_is_no_urdf_is_refused() {
        for (text, wanted) in [
            ("joints: []", "is not valid XML"),
            ("<sdf/>", "its root is <sdf>"),
            (
                r#"<robot xmlns:xacro="http://www.ros.org/wiki/xacro"><xacro:arm/></robot>"#,
                "is a xacro file",
            ),
            (
                r#"<robot><joint name="a" type="revolute"><limit lower="${pi}"/></joint></robot>"#,
                "joint 'a': limit lower=\"${pi}\" is no number",
            ),
            (r#"<robot><joint type="revolute"/></robot>"#, "a joint without a name"),
            (r#"<!DOCTYPE r [<!ENTITY a "b">]><robot>&a;</robot>"#, "is not valid XML"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
