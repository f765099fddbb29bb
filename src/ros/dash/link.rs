//! The page's requests on their way to the node. Requests are sent on the thread of the HTTP
//! request; ROS's thread receives the answers.

use std::sync::Mutex;

use r2r::QosProfile;
use r2r::std_msgs::msg::String as StringMessage;
use r2r::std_srvs::srv::{SetBool, Trigger};
use vla_inference::policy::Instruction;
use vla_serve::dash::{Answer, Answering, Node, Request};

use crate::ros::NodeError;
use crate::ros::inbox::publish;
use crate::ros::messages::text;
use crate::ros::names::Names;

/// Clients of the node's services, and the publisher of instructions.
pub(super) struct Link {
    enable: r2r::Client<SetBool::Service>,
    estop: r2r::Client<Trigger::Service>,
    reset: r2r::Client<Trigger::Service>,
    instruction: Mutex<r2r::Publisher<StringMessage>>,
    topic: String,
}

impl Link {
    pub(super) fn create(ros: &mut r2r::Node, names: &Names) -> Result<Self, NodeError> {
        let failed = |error| NodeError::Ros { what: "a client", error };
        let qos = QosProfile::services_default;
        let topic = names.resolve("instruction");
        // Volatile: a node that is started later does not get an instruction of before.
        let of_topic = QosProfile::default().keep_last(1).reliable().volatile();
        Ok(Self {
            enable: ros.create_client(&names.resolve("~/enable"), qos()).map_err(failed)?,
            estop: ros.create_client(&names.resolve("~/estop"), qos()).map_err(failed)?,
            reset: ros.create_client(&names.resolve("~/reset"), qos()).map_err(failed)?,
            instruction: Mutex::new(publish(ros, &topic, of_topic)?),
            topic,
        })
    }

    fn instruct(&self, words: &str) -> Answer {
        let refused = |message: String| Answer { success: false, message };
        if let Err(error) = Instruction::read(words) {
            return refused(error.to_string());
        }
        // Nothing panics while it holds the lock.
        let publisher = self.instruction.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if matches!(publisher.get_inter_process_subscription_count(), Ok(0)) {
            return refused(format!("no node subscribes to {}; is it running?", self.topic));
        }
        match publisher.publish(&StringMessage { data: text(words) }) {
            Ok(()) => Answer { success: true, message: "sent".into() },
            Err(error) => refused(format!("not sent: {error}")),
        }
    }
}

/// The answer of a service, awaited.
fn answering<R: 'static>(
    sent: r2r::Result<impl Future<Output = r2r::Result<R>> + Send + 'static>,
    read: fn(R) -> Answer,
) -> Answering {
    let failed = |error: r2r::Error| Answer { success: false, message: format!("ROS 2: {error}") };
    match sent {
        Ok(answer) => Box::pin(async move { answer.await.map_or_else(failed, read) }),
        Err(error) => Box::pin(std::future::ready(failed(error))),
    }
}

impl Node for Link {
    fn send(&self, request: Request) -> Answering {
        let set = |data| self.enable.request(&SetBool::Request { data });
        let of_enable =
            |SetBool::Response { success, message }: SetBool::Response| Answer { success, message };
        let of_trigger =
            |Trigger::Response { success, message }: Trigger::Response| Answer { success, message };
        match request {
            Request::Enable => answering(set(true), of_enable),
            Request::Disable => answering(set(false), of_enable),
            Request::Stop => answering(self.estop.request(&Trigger::Request {}), of_trigger),
            Request::Reset => answering(self.reset.request(&Trigger::Request {}), of_trigger),
            Request::Instruction(words) => Box::pin(std::future::ready(self.instruct(&words))),
        }
    }
}
