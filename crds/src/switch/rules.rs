/// The rules of the protocol, each with what breaks without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Nobody writes while the broker changes. Else one pod writes to the new one while another still writes to the old one.
    HoldFirst,
    /// A pod is a member before it reads the state. Else it may write by a state that the coordinator believes to be over.
    JoinBeforeRead,
    /// The first state is read by a quorum read. Else it may be one from before the member was listed.
    QuorumRead,
    /// A state is obeyed only if it is newer than all that were seen. Else a stale file takes a pod back to the old broker.
    OnlyNewer,
    /// Held is answered when nothing of the pod's own is in flight. Else a message arrives behind the seal, although it was accepted.
    SettleBeforeAck,
    /// Members are listed after Hold is written. Else one that joined in between is not waited for.
    ListAfterHold,
    /// A list of before the Hold that the watch has followed will do once an answer to the Hold is heard. Else one that joined before the
    /// Hold, and is not heard of yet, is not waited for.
    ProvenByAnswer,
    /// And only if that answer is heard in order. Else a watch that is taken up again tells of one that has answered before it tells of one
    /// that writes.
    ProvenInOrder,
    /// All that were listed have answered. Else one of them still writes to the old broker.
    WaitForAll,
    /// A container is excused only if the very one that joined has ended. Else a stale look at its pod excuses one that writes.
    EndedAfterJoining,
    /// Only what is closed is sealed. Else there are messages behind the seal.
    SealAfterOpen,
    /// A broker is opened again behind the seals of its earlier epochs. Else a new message lies before the seal, and the drain never ends.
    SealBeforeReuse,
    /// Workers go on to the next epoch when the one before is read to its seal in every partition.
    DrainToSeal,
    /// A message of an epoch that is not active yet is not processed.
    EpochFence,
    /// What appears behind the seals is read too. Else it is lost.
    ReadStragglers,
    /// Status knows a state before the next one is written. Else what is rebuilt from it forgets a broker that was written to.
    MirrorBeforeNext,
    /// A rebuilt Hold is not taken back: nobody knows whether its target was written to already.
    RestoredGoesOn,
}

/// Which rules are in force: all of them. It takes no room, and asking costs nothing.
#[cfg(not(any(test, feature = "drop-rules")))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rules;

#[cfg(not(any(test, feature = "drop-rules")))]
impl Rules {
    /// Those of this process.
    pub const fn in_force() -> Rules {
        Rules
    }
    #[inline(always)]
    pub const fn keep(self, _: Rule) -> bool {
        true
    }
}

/// Which rules are in force: in the model and in builds for fault tests one may be dropped.
#[cfg(any(test, feature = "drop-rules"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rules {
    dropped: Option<Rule>,
}

#[cfg(any(test, feature = "drop-rules"))]
impl Rules {
    /// Those of this process: a build for fault tests drops the one that `DROP_RULE` names.
    pub fn in_force() -> Rules {
        let Ok(name) = std::env::var("DROP_RULE") else { return Rules::default() };
        name.parse().unwrap_or_else(|error: String| panic!("DROP_RULE: {error}"))
    }
    pub const fn without(rule: Rule) -> Rules {
        Rules { dropped: Some(rule) }
    }
    pub fn keep(self, rule: Rule) -> bool {
        self.dropped != Some(rule)
    }
}

#[cfg(any(test, feature = "drop-rules"))]
pub const ALL_RULES: [Rule; 17] = [
    Rule::HoldFirst,
    Rule::JoinBeforeRead,
    Rule::QuorumRead,
    Rule::OnlyNewer,
    Rule::SettleBeforeAck,
    Rule::ListAfterHold,
    Rule::ProvenByAnswer,
    Rule::ProvenInOrder,
    Rule::WaitForAll,
    Rule::EndedAfterJoining,
    Rule::SealAfterOpen,
    Rule::SealBeforeReuse,
    Rule::DrainToSeal,
    Rule::EpochFence,
    Rule::ReadStragglers,
    Rule::MirrorBeforeNext,
    Rule::RestoredGoesOn,
];

#[cfg(any(test, feature = "drop-rules"))]
impl std::str::FromStr for Rules {
    type Err = String;

    /// By the name of the rule that is dropped: `HoldFirst`.
    fn from_str(name: &str) -> Result<Rules, String> {
        let found = ALL_RULES.into_iter().find(|rule| format!("{rule:?}") == name);
        found.map(Rules::without).ok_or_else(|| format!("there is no rule {name}; there are {ALL_RULES:?}"))
    }
}
