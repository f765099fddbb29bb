//! The inference engine: a checkpoint folder, camera images and an instruction in, a policy's
//! action out. Independent of ROS and of the robot.
//!
//! A decision passes through the modules in this order: [`checkpoint`] (files) and [`observation`]
//! (images) feed [`models`] (networks, generic over a [`backend`]), and [`policy`] turns the
//! generated tokens into un-normalized actions. [`plan`] predicts memory and time on a mesh from config.json alone;
//! [`golden`] compares a machine with recorded values of the official code.

pub mod backend;
pub mod checkpoint;
pub mod golden;
pub mod models;
pub mod observation;
pub mod plan;
pub mod policy;
pub mod stats;
pub mod tensor;
pub mod text;
