//! Explanations of the node's present troubles, for `~/status` and `/diagnostics`.

use super::{
    log::{self, Severity},
    messages::Hints,
};
use vla_inference::policy::RemoteFault;

/// The newest refusal of each kind; `None` when the newest input of that kind was accepted.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Why the last lifecycle transition failed.
    pub transition: Option<String>,
    /// Why the last instruction was refused.
    pub instruction: Option<String>,
    /// Why the last `ee_pose` was refused, and whether its content was the reason (frame, numbers).
    pub pose: Option<(bool, String)>,
    /// Why the last image was refused, and whether its encoding or size is unsupported.
    pub image: Option<(bool, String)>,
    /// Why the last message of the state was refused.
    pub state: Option<String>,
    /// Why the policy's last result was refused, and whether a token was no action.
    pub policy: Option<(bool, String)>,
    /// What was wrong with the policy server at the last failure, with the text; `None` when the
    /// last failure was another one. Stays after the next decision: control's cause outlasts it by
    /// a step.
    pub remote: Option<(RemoteFault, String)>,
    /// How the policy's last decision was made otherwise than was asked for.
    pub remark: Option<String>,
}

impl Notes {
    /// The facts that make a general cause of the control core exact.
    pub fn hints(&self) -> Hints {
        Hints {
            image_refused: self.image.as_ref().map(|(unsupported, _)| *unsupported),
            instruction_refused: self.instruction.is_some(),
            remote: self.remote.as_ref().map(|(fault, _)| *fault),
            non_action_token: self.policy.as_ref().is_some_and(|(non_action, _)| *non_action),
            pose_refused: self.pose.as_ref().is_some_and(|(content, _)| *content),
        }
    }

    /// All notes in one text, to be appended to the cause in `Status.detail`.
    pub fn text(&self) -> String {
        let policy = if self.remote.is_some() { "" } else { "policy: " };
        let all = [
            ("", self.transition.as_deref()),
            ("instruction refused: ", self.instruction.as_deref()),
            ("image refused: ", self.image.as_ref().map(|(_, text)| text.as_str())),
            ("", self.state.as_deref()),
            // A server's failure has its own name and is the text of its cause.
            (policy, self.policy.as_ref().map(|(_, text)| text.as_str())),
            ("", self.remark.as_deref()),
            ("", self.pose.as_ref().map(|(_, text)| text.as_str())),
        ];
        let present = all.iter().filter_map(|(what, note)| Some(format!("{what}{}", (*note)?)));
        present.collect::<Vec<_>>().join("; ")
    }

    /// Notes a failure of the policy; returns its text, which begins with the fault of a server.
    pub fn failed(&mut self, remote: Option<RemoteFault>, text: String) -> String {
        let text = match remote {
            Some(fault) => format!("{}: {}", fault.name(), log::escape(&text)),
            None => text,
        };
        self.remote = remote.map(|fault| (fault, text.clone()));
        text
    }

    /// Sets or clears the remark, and logs it when it is new.
    pub fn remark(&mut self, text: Option<&str>) {
        if let Some(text) = text
            && self.remark.as_deref() != Some(text)
        {
            log::limited(Severity::Warn, "policy's remark", text);
        }
        self.remark = text.map(str::to_owned);
    }

    /// Sets a note and logs it when it is new: a camera that is always wrong does not fill the log.
    pub fn set(place: &mut Option<(bool, String)>, flag: bool, text: String, what: &'static str) {
        if place.as_ref().is_none_or(|(_, old)| *old != text) {
            log::limited(Severity::Warn, what, format!("{what}: {text}"));
        }
        *place = Some((flag, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_until_another_failure() {
        let mut notes = Notes::default();
        let text = notes.failed(Some(RemoteFault::Late), "act://gpu:1: slow\n".into());
        assert_eq!(text, "REMOTE_LATE: act://gpu:1: slow\\n");
        notes.policy = Some((false, text.clone()));
        assert_eq!((notes.text(), notes.hints().remote), (text, Some(RemoteFault::Late)));
        // The next decision; control's cause outlasts it by a step.
        notes.policy = None;
        assert_eq!((notes.text(), notes.hints().remote), ("".into(), Some(RemoteFault::Late)));
        assert_eq!(notes.failed(None, "token 13".into()), "token 13");
        assert_eq!(notes.hints().remote, None);
    }

    #[test]
    fn notes_are_joined_in_order() {
        let mut notes = Notes::default();
        assert_eq!(notes.text(), "");
        notes.policy = Some((true, "token 13".into()));
        notes.instruction = Some("too long".into());
        assert_eq!(notes.text(), "instruction refused: too long; policy: token 13");
        notes.remark = Some("a seam remains".into());
        notes.policy = None;
        assert_eq!(notes.text(), "instruction refused: too long; a seam remains");
        notes.remark(None);
        notes.policy = Some((true, "token 13".into()));
        assert!(notes.hints().non_action_token && notes.hints().instruction_refused);
    }
}
