//! A separate ROS domain for every test that starts ROS processes.
//!
//! `tools/ros/isolated.py` does the same for whole commands; both take the same locks.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::process::Command;

/// Domains with ports below Linux's range of ephemeral ports; 0 is the default of all processes.
const DOMAINS: u16 = 101;

/// Variables that would connect a process with others outside of its domain.
const FOREIGN: [&str; 5] = [
    "ROS_STATIC_PEERS",
    "ROS_DISCOVERY_SERVER",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "CYCLONEDDS_URI",
];

/// A claimed domain; free again when this is dropped.
pub struct Domain {
    id: u16,
    _lock: File,
}

impl Domain {
    /// Claims a domain that no other process on this machine uses.
    pub fn claim() -> Domain {
        let used = udp_ports();
        let start = std::process::id() % u32::from(DOMAINS);
        for offset in 0..DOMAINS {
            let id = 1 + ((start as u16) + offset) % DOMAINS;
            let first = 7400 + 250 * id;
            if used.iter().any(|port| (first..first + 250).contains(port)) {
                continue;
            }
            let path = std::env::temp_dir().join(format!("openvla_tt-domain-{id}.lock"));
            let Ok(file) = OpenOptions::new().write(true).create(true).truncate(false).open(path)
            else {
                continue; // another user's file
            };
            if file.try_lock().is_ok() {
                return Domain { id, _lock: file };
            }
        }
        panic!("all ROS domains from 1 to {DOMAINS} are in use on this machine");
    }

    /// The number for `ROS_DOMAIN_ID`.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Restricts a command to this domain and to loopback.
    pub fn apply<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for name in FOREIGN {
            command.env_remove(name);
        }
        command.env("ROS_DOMAIN_ID", self.id.to_string());
        // Without it raw images are lost; the file explains why.
        command.env(
            "FASTRTPS_DEFAULT_PROFILES_FILE",
            concat!(env!("CARGO_MANIFEST_DIR"), "/config/fastdds.xml"),
        );
        // Humble knows only the older of the two; with both, Jazzy warns in every process.
        if std::env::var("ROS_DISTRO").as_deref() == Ok("humble") {
            command.env("ROS_LOCALHOST_ONLY", "1")
        } else {
            command
                .env_remove("ROS_LOCALHOST_ONLY")
                .env("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        }
    }
}

/// The interpreter that has rclpy and our messages.
pub fn python() -> Command {
    Command::new(
        std::env::var_os("OPENVLA_ROS_PYTHON")
            .expect("run it with `tools/ros/run cargo test --features ros`"),
    )
}

/// The bound UDP ports of this machine.
fn udp_ports() -> HashSet<u16> {
    ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|text| {
            let port = |line: &str| {
                u16::from_str_radix(line.split_whitespace().nth(1)?.rsplit(':').next()?, 16).ok()
            };
            text.lines().skip(1).filter_map(port).collect::<Vec<_>>()
        })
        .collect()
}
