//! Publishers, subscriptions and services; received messages are taken without waiting.

use futures::{FutureExt, Stream, StreamExt};
use r2r::{QosProfile, ServiceRequest, WrappedServiceTypeSupport, WrappedTypesupport};

use super::NodeError;

/// The queue of a subscription or service.
pub(super) struct Inbox<T>(Box<dyn Stream<Item = T> + Unpin>);

impl<T: 'static> Inbox<T> {
    pub fn new(stream: impl Stream<Item = T> + Unpin + 'static) -> Self {
        Self(Box::new(stream))
    }

    /// The oldest message not taken yet.
    pub fn next(&mut self) -> Option<T> {
        self.0.next().now_or_never().flatten()
    }
}

/// Subscribes to a topic.
pub(super) fn subscribe<T: WrappedTypesupport + 'static>(
    node: &mut r2r::Node,
    topic: &str,
    qos: QosProfile,
) -> Result<Inbox<T>, NodeError> {
    node.subscribe::<T>(topic, qos)
        .map(Inbox::new)
        .map_err(|error| NodeError::Ros { what: "a subscription", error })
}

/// Offers a service.
pub(super) fn serve<S: WrappedServiceTypeSupport + 'static>(
    node: &mut r2r::Node,
    name: &str,
) -> Result<Inbox<ServiceRequest<S>>, NodeError> {
    node.create_service::<S>(name, QosProfile::services_default())
        .map(Inbox::new)
        .map_err(|error| NodeError::Ros { what: "a service", error })
}

/// Creates a publisher.
pub(super) fn publish<T: WrappedTypesupport>(
    node: &mut r2r::Node,
    topic: &str,
    qos: QosProfile,
) -> Result<r2r::Publisher<T>, NodeError> {
    node.create_publisher::<T>(topic, qos)
        .map_err(|error| NodeError::Ros { what: "a publisher", error })
}

/// Answers a request; a client that is gone needs no answer.
pub(super) fn answer<S: WrappedServiceTypeSupport + 'static>(
    request: ServiceRequest<S>,
    response: S::Response,
) {
    if let Err(error) = request.respond(response) {
        super::log::debug(format!("a service's client is gone: {error}"));
    }
}
