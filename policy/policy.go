// Package policy decides. Decide is the one place in which access is allowed
// or refused: the CA, the node, the sshd companion and, by Explain, dtctl
// explain all call it with the same facts. It has no clock, file, socket, log
// or store.
package policy

import "time"

// Effect of a decision. The zero value denies.
type Effect int

const (
	Deny Effect = iota
	Allow
)

// Action is what somebody wants to do. The zero value is refused.
type Action int

const (
	// NoAction is refused.
	NoAction Action = iota
	// OpenSession opens an SSH session as Login on Node.
	OpenSession
	// CallAPI does Verb on resources of kind Resource.
	CallAPI
	// SeeNode lists Node, with any of the logins.
	SeeNode
	// Forward uses a session's connection to reach Target from Node as Login,
	// or to be reached there. Whoever may not have a session may not forward.
	Forward
	// LogIn holds a certificate, or calls the API at all: no lock on the
	// subject, at least one role, every role known.
	LogIn
)

// Subject is who wants it, as a verified certificate or the CA's own records
// tell; never as a client claims.
type Subject struct {
	User   string
	Roles  []string
	Traits map[string][]string
	// Principals are the logins in the certificate; nil where there is no
	// certificate yet (CallAPI, explain).
	Principals []string
	// Device: all three present, or there is none.
	DeviceID, DeviceAssetTag, DeviceCredentialID string
	// DeviceEvidence is what the device proved of itself; it counts for
	// nothing without a device.
	DeviceEvidence Evidence
	// KeyAttested: the key of the certificate is proved to be in the TPM of the
	// device; it counts for nothing without a device.
	KeyAttested bool
	// Bot is a machine's account, which mode required-for-humans exempts.
	// The zero value is a human.
	Bot bool
	// Serial of the certificate; 0 where there is none yet.
	Serial uint64
	// LocalAdmin is whoever holds the control-plane machine's own socket: it
	// may call everything and open no session. Its User is "os:NAME".
	LocalAdmin bool
}

// Node is where.
type Node struct {
	ID, Name string
	Labels   map[string]string
}

// Request is one question.
type Request struct {
	Action  Action
	Subject Subject
	// OpenSession, Forward
	Login string
	// OpenSession, Forward, SeeNode
	Node Node
	// Forward
	Target Target
	// CallAPI
	Resource, Verb string

	Now time.Time
	// StateAge is how long ago whoever is asked last knew that the State is
	// the one in force; 0 where it is the control plane itself, NeverHeard where
	// nothing is known of it.
	StateAge time.Duration
}

// Target is what is forwarded.
type Target struct {
	Kind TargetKind
	// Host and Port of ToPort and FromPort; Host is as the client wrote it,
	// "" (FromPort) every address. Port 0 (FromPort) is any free one.
	Host string
	Port uint16
	// Path of ToSocket and FromSocket.
	Path string
}

// TargetKind is which kind of forwarding. The zero value is refused.
type TargetKind int

const (
	NoTarget TargetKind = iota
	// ToPort connects from the node to Host:Port (ssh -L, -D, -W).
	ToPort
	// FromPort listens on the node at Host:Port (ssh -R).
	FromPort
	// ToSocket and FromSocket are the same with a UNIX socket at Path.
	ToSocket
	FromSocket
	// ToAgent lets the node use the person's agent (ssh -A), ToDisplay their
	// X11 display (ssh -X).
	ToAgent
	ToDisplay
)

// State is the policy in force. The zero value denies everything; to the
// local administrator, who can repair it, only a nil State does.
type State struct {
	Roles      map[string]Role
	Preference Preference
	Locks      []Lock
	// Revoked are the certificates that are revoked, and why.
	Revoked Revocations
}

// Decision is the answer, with its reasons.
type Decision struct {
	Effect Effect
	// Cause is what decided; callers branch on it, people read Reason.
	Cause Cause
	// Reason is one line for the person: "access to resource requires a
	// trusted device".
	Reason string
	// Rules are all that took part, in the order of evaluation. Most are
	// made once, with their role, and shared: nobody may change them.
	Rules []*Rule
	// Changes would turn a denial into an allow, each by itself; one line
	// each. Explain fills them in.
	Changes []string
	// Limits of the session; meaningful where Effect is Allow.
	Limits Limits
}

// Allowed tells whether d allows.
func (d Decision) Allowed() bool { return d.Effect == Allow }

// Cause names what decided, for metrics, tests and callers that branch.
type Cause string

const (
	CauseUnknown       Cause = ""
	CauseGranted       Cause = "granted"
	CauseBadRequest    Cause = "bad-request"
	CauseNoState       Cause = "no-policy"
	CauseRevoked       Cause = "revoked"
	CauseLocked        Cause = "locked"
	CauseUnknownRole   Cause = "unknown-role"
	CauseDenied        Cause = "denied-by-role"
	CauseNotGranted    Cause = "not-granted"
	CausePrincipal     Cause = "not-a-principal"
	CauseTrustedDevice Cause = "trusted-device-required"
	CauseUnknownMode   Cause = "unknown-mode"
	CauseEvidence      Cause = "device-evidence-required"
	CauseAttestedKey   Cause = "attested-key-required"
	CauseForwarding    Cause = "forwarding-not-granted"
	CauseStaleLocks    Cause = "stale-locks"
)

// ReasonTrustedDevice is the sentence that users of Teleport know.
const ReasonTrustedDevice = "access to resource requires a trusted device"

// Rule is one rule that took part in a decision.
type Rule struct {
	Effect RuleEffect
	// Source is which: `role "access" allow.node_labels`.
	Source string
	// Detail says how it matched or why it did not.
	Detail string
}

// RuleEffect is what a rule did: "allow", "deny", "require", "skip".
type RuleEffect string

const (
	RuleAllow   RuleEffect = "allow"
	RuleDeny    RuleEffect = "deny"
	RuleRequire RuleEffect = "require"
	RuleSkip    RuleEffect = "skip"
)

// Limits are the options of the subject's roles, combined: the shortest time,
// the smallest count; a permission where one of the roles gives it; a demand
// where one of the roles makes it. All roles of the subject count, whichever
// node is asked for. A permission that no role mentions is not given.
type Limits struct {
	MaxSessionTTL         time.Duration // 0: MaxSessionTTLDefault
	IdleTimeout           time.Duration // 0: none
	MaxSessions           int64         // 0: the node's own limit
	PortForwarding        bool
	AgentForwarding       bool
	X11Forwarding         bool
	DisconnectExpiredCert bool
	PinSourceIP           bool
	// AttestedKey: a device's logins need a key that is proved to be in its TPM.
	AttestedKey bool
	// StaleAfter is the StateAge beyond which it would be a denial; 0: none.
	StaleAfter time.Duration
	// BestEffortAudit: what cannot be recorded happens all the same. It is
	// given where every role gives it.
	BestEffortAudit bool
}
