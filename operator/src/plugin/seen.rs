//! A pipeline as its status shows it, and what there is to say of it. Pure.

use crds::pipeline::BackendStatus;
use crds::switch::{Outcome, Phase, SwitchState};
use kube::api::DynamicObject;
use serde_json::Value as Json;

pub struct Seen {
    /// What the document asks for.
    pub spec_backend: String,
    backends: Vec<String>,
    backend: BackendStatus,
    state: Option<SwitchState>,
    conditions: Vec<(String, String, String)>,
}

/// What is waited for.
#[derive(Clone, Debug)]
pub enum End {
    /// The request that was made when status showed this revision.
    Written { backend: String, by: String, at: String, revision: u64 },
    /// Workers have left this epoch.
    Left { epoch: u64 },
}

impl Seen {
    pub fn of(object: &DynamicObject) -> Seen {
        let (spec, status) = (&object.data["spec"], &object.data["status"]);
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let backends: Vec<String> = spec["backends"].as_array().into_iter().flatten().map(|backend| text(&backend["name"])).collect();
        let only = backends.first().cloned().unwrap_or_default();
        let conditions = status["conditions"].as_array().into_iter().flatten();
        Seen {
            spec_backend: spec["backend"].as_str().map_or(only, str::to_owned),
            backends,
            backend: serde_json::from_value(status["backend"].clone()).unwrap_or_default(),
            state: SwitchState::parse(&status["backend"]["mirror"].to_string()).ok(),
            conditions: conditions.map(|c| (text(&c["type"]), text(&c["status"]), text(&c["message"]))).collect(),
        }
    }

    fn message(&self, type_: &str) -> String {
        self.conditions.iter().find(|(of, ..)| of == type_).map(|(.., message)| message.clone()).unwrap_or_default()
    }

    /// How the switch is, in a sentence.
    pub fn switching(&self) -> String {
        self.message("Switching")
    }

    fn state(&self) -> Result<&SwitchState, String> {
        match &self.state {
            _ if self.backends.len() < 2 => {
                Err(format!("it has one backend, {}: add a second one to spec.backends first", self.spec_backend))
            }
            None => Err("the operator has not taken it up yet: status.backend.mirror is missing, or of another version".into()),
            Some(state) => Ok(state),
        }
    }

    /// Which pipeline of the name this is.
    pub fn lineage(&self) -> Result<&str, String> {
        Ok(self.state()?.lineage())
    }

    /// The revision that a request for this backend refers to. None: it is what is asked for, and done.
    pub fn revision_to_ask(&self, backend: &str) -> Result<Option<u64>, String> {
        let state = self.state()?;
        if !self.backends.iter().any(|name| name == backend) {
            return Err(format!("spec.backends has no {backend}; it has {}", self.backends.join(", ")));
        }
        let done = *state.phase() == Phase::Steady && *state.newest().backend == *backend && *state.asked().backend == *backend;
        Ok((!done).then_some(state.revision()))
    }

    /// The newest epoch that is not written to any more, and the backends of all that are left with it.
    pub fn epoch_to_abandon(&self) -> Result<(u64, String), String> {
        let epochs = self.state()?.epochs();
        let closed = &epochs[..epochs.len() - 1];
        let Some(last) = closed.last() else { return Err("nothing drains: workers read where orders are written".into()) };
        let names: Vec<&str> = closed.iter().map(|open| &*open.backend).collect();
        Ok((last.epoch, names.join(", ")))
    }

    /// Whether it is over, and how.
    pub fn outcome(&self, end: &End) -> Option<Result<(), String>> {
        let state = self.state.as_ref()?;
        match end {
            End::Left { epoch } => (state.active().epoch > *epoch).then_some(Ok(())),
            End::Written { backend, by, at, revision } => {
                let asked = state.asked();
                if asked.since <= *revision {
                    return None; // not taken up yet
                }
                if (&*asked.by, &*asked.at) != (by.as_str(), at.as_str()) {
                    return Some(Err(format!("{} asked for {} meanwhile, and that rules now", asked.by, asked.backend)));
                }
                let settled = *state.phase() == Phase::Steady;
                let failed = state.last().filter(|last| settled && *last.to == **backend && last.failures > 0);
                match failed {
                    Some(last) if matches!(last.outcome, Outcome::Aborted | Outcome::Refused) => {
                        Some(Err(format!("{}; it is tried again after a pause, until somebody asks for another backend", self.switching())))
                    }
                    _ => (settled && !state.drains() && *state.newest().backend == **backend).then_some(Ok(())),
                }
            }
        }
    }

    /// What `status` prints.
    pub fn lines(&self) -> Vec<String> {
        let BackendStatus { active, writing, epoch, phase, requested, last_switch, .. } = &self.backend;
        let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "?".into());
        let mut lines = vec![format!("orders     written to {}, read from {}", word(writing), word(active))];
        lines.push(match epoch {
            Some(epoch) => format!("phase      {} (epoch {epoch})", word(phase)),
            None => format!("phase      {}", word(phase)),
        });
        lines.extend(requested.as_ref().and_then(|asked| asked.rules.as_ref()).map(|rules| format!("request    {rules}")));
        lines.extend(Some(self.switching()).filter(|message| !message.is_empty()).map(|message| format!("switching  {message}")));
        if let Some(last) = last_switch {
            let outcome = last.outcome.as_deref().unwrap_or("under way");
            let mut line = format!("last       from {} to {}: {outcome}", last.from, last.to);
            if let Some(at) = &last.started_at {
                line += &format!(", begun {at}");
            }
            for (what, ms) in [("writes paused", last.write_pause_ms), ("drained in", last.drain_ms)] {
                line += &ms.map(|ms| format!(", {what} {ms} ms")).unwrap_or_default();
            }
            lines.push(line);
        }
        lines.push(format!("ready      {}", self.message("Ready")));
        lines
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crds::switch::Request;
    use serde_json::json;

    fn seen(state: &SwitchState) -> Seen {
        let object = json!({
            "apiVersion": "orderpipeline.dev/v1alpha1", "kind": "OrderPipeline", "metadata": {"name": "shop"},
            "spec": {"backend": "kafka", "backends": [{"name": "kafka"}, {"name": "next"}]},
            "status": {"backend": {"mirror": state, "writing": "kafka"}, "conditions": [{"type": "Switching", "status": "False", "message": "how it is"}]},
        });
        Seen::of(&serde_json::from_value(object).unwrap())
    }

    fn asked() -> SwitchState {
        let first = SwitchState::first("l", "kafka");
        let request = Request { backend: "next".into(), by: "ops".into(), at: "now".into(), lineage: None, revision: 1 };
        first.noted(first.ruling("kafka", &[request]).unwrap()).unwrap()
    }

    fn end() -> End {
        End::Written { backend: "next".into(), by: "ops".into(), at: "now".into(), revision: 1 }
    }

    #[test]
    fn a_request_refers_to_the_revision_that_was_seen() {
        let first = seen(&SwitchState::first("l", "kafka"));
        assert_eq!(first.revision_to_ask("next"), Ok(Some(1)));
        assert_eq!(first.revision_to_ask("kafka"), Ok(None));
        assert_eq!(first.revision_to_ask("nowhere").unwrap_err(), "spec.backends has no nowhere; it has kafka, next");
        assert!(first.epoch_to_abandon().unwrap_err().contains("nothing drains"));
    }

    #[test]
    fn it_is_over_when_it_is_drained_refused_or_overruled() {
        assert_eq!(seen(&SwitchState::first("l", "kafka")).outcome(&end()), None);
        let prepared = asked().prepared().unwrap();
        let opened = prepared.held().unwrap().opened().unwrap();
        assert_eq!(seen(&opened).outcome(&end()), None);
        assert_eq!(seen(&opened).epoch_to_abandon(), Ok((1, "kafka".into())));
        assert_eq!(seen(&opened.activated(Outcome::Completed).unwrap()).outcome(&end()), Some(Ok(())));
        let refused = seen(&prepared.aborted(Outcome::Refused, "no topic", true).unwrap()).outcome(&end()).unwrap().unwrap_err();
        assert!(refused.starts_with("how it is; it is tried again"), "{refused}");
        let overruled = opened.noted(opened.ruling("third", &[]).unwrap()).unwrap();
        assert!(seen(&overruled).outcome(&end()).unwrap().unwrap_err().contains("spec.backend asked for third meanwhile"));
    }

    #[test]
    fn an_attempt_that_an_ending_operator_took_back_is_not_over() {
        let taken_back = asked().prepared().unwrap().aborted(Outcome::Aborted, "the operator stops", false).unwrap();
        assert_eq!(seen(&taken_back).outcome(&end()), None);
    }
}
