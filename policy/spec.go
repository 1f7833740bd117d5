package policy

import "time"

// RoleSpec is a role as written down: unchecked. NewRole checks it.
type RoleSpec struct {
	Options RoleOptions    `yaml:"options,omitempty" json:"options,omitzero"`
	Allow   RoleConditions `yaml:"allow,omitempty" json:"allow,omitzero"`
	Deny    RoleConditions `yaml:"deny,omitempty" json:"deny,omitzero"`
}

// RoleOptions: product.md section 8. Pointers tell unset from false.
type RoleOptions struct {
	DeviceTrustMode       Mode     `yaml:"device_trust_mode,omitempty" json:"device_trust_mode,omitempty"`
	MaxSessionTTL         Duration `yaml:"max_session_ttl,omitempty" json:"max_session_ttl,omitempty"`
	PortForwarding        *bool    `yaml:"port_forwarding,omitempty" json:"port_forwarding,omitempty"`
	ForwardAgent          *bool    `yaml:"forward_agent,omitempty" json:"forward_agent,omitempty"`
	PermitX11Forwarding   *bool    `yaml:"permit_x11_forwarding,omitempty" json:"permit_x11_forwarding,omitempty"`
	ClientIdleTimeout     Duration `yaml:"client_idle_timeout,omitempty" json:"client_idle_timeout,omitempty"`
	DisconnectExpiredCert *bool    `yaml:"disconnect_expired_cert,omitempty" json:"disconnect_expired_cert,omitempty"`
	MaxSessions           int64    `yaml:"max_sessions,omitempty" json:"max_sessions,omitempty"`
	// Lock: whether sessions need locks that are known to be current; strict
	// where one role of the user says so.
	Lock        LockingMode `yaml:"lock,omitempty" json:"lock,omitempty"`
	PinSourceIP *bool       `yaml:"pin_source_ip,omitempty" json:"pin_source_ip,omitempty"`
	// PermitOpen and PermitListen narrow port_forwarding: HOST:PORT, either of
	// them "*", [IPv6]:PORT, the absolute path of a UNIX socket, or of a folder
	// and "/*"; "none" alone is nothing. No list is everything; an empty one is
	// an error. With a list only what it names: one without paths permits no sockets.
	PermitOpen   []string `yaml:"permit_open,omitempty" json:"permit_open,omitempty"`
	PermitListen []string `yaml:"permit_listen,omitempty" json:"permit_listen,omitempty"`
	// Audit: with best_effort, what cannot be recorded happens all the same,
	// for users of whom no role says strict, or nothing.
	Audit string `yaml:"audit,omitempty" json:"audit,omitempty"`
	// DeviceEvidence is asked for on the nodes that the role itself allows,
	// of humans and of machines; nil asks for none.
	DeviceEvidence *EvidenceDemand `yaml:"device_evidence,omitempty" json:"device_evidence,omitempty"`
	// RequireAttestedKey: on the nodes that the role itself allows, of humans and
	// of machines, a certificate's key must be proved to be in the TPM of a
	// trusted device. False asks for nothing.
	RequireAttestedKey *bool `yaml:"require_attested_key,omitempty" json:"require_attested_key,omitempty"`
}

// EvidenceDemand is what a device must have proved; there is a level or a TPM
// in it, or both, and then both must be met.
type EvidenceDemand struct {
	// Level is the lowest that will do.
	Level EvidenceLevel `yaml:"level,omitempty" json:"level,omitempty"`
	// TPMs: one of them will do; empty is any TPM, or none.
	TPMs []TPMDemand `yaml:"tpms,omitempty" json:"tpms,omitempty"`
}

// TPMDemand is a manufacturer, by its vendor ID in the TCG's registry, with
// the oldest firmware of its that will do; an empty one is any.
type TPMDemand struct {
	Manufacturer string `yaml:"manufacturer" json:"manufacturer"`
	MinFirmware  string `yaml:"min_firmware,omitempty" json:"min_firmware,omitempty"`
}

// RoleConditions is an allow or a deny block.
type RoleConditions struct {
	Logins     []string          `yaml:"logins,omitempty" json:"logins,omitempty"`
	NodeLabels map[string]Values `yaml:"node_labels,omitempty" json:"node_labels,omitempty"`
	Rules      []APIRule         `yaml:"rules,omitempty" json:"rules,omitempty"`
}

// APIRule allows or denies verbs on kinds of resources; "*" is all.
type APIRule struct {
	Resources []string `yaml:"resources" json:"resources"`
	Verbs     []string `yaml:"verbs" json:"verbs"`
}

// Mode is a device trust mode. An unknown one denies.
type Mode string

const (
	ModeUnset             Mode = ""
	ModeOff               Mode = "off"
	ModeOptional          Mode = "optional"
	ModeRequired          Mode = "required"
	ModeRequiredForHumans Mode = "required-for-humans"
)

// Preference is the part of cluster_auth_preference that decides.
// The zero value has an unset mode, which stands for ModeOptional.
type Preference struct {
	DeviceTrust DeviceTrust `yaml:"device_trust,omitempty" json:"device_trust,omitzero"`
	// LockingMode is for users none of whose roles has the option lock; an
	// unset one stands for LockingBestEffort.
	LockingMode LockingMode `yaml:"locking_mode,omitempty" json:"locking_mode,omitempty"`
	// StalenessLimit is how old what a server knows of locks may be where they
	// have to be current; 0 stands for five minutes.
	StalenessLimit Duration `yaml:"staleness_limit,omitempty" json:"staleness_limit,omitempty"`
}

// DeviceTrust: cluster_auth_preference.spec.device_trust.
type DeviceTrust struct {
	Mode             Mode     `yaml:"mode,omitempty" json:"mode,omitempty"`
	AutoEnroll       bool     `yaml:"auto_enroll,omitempty" json:"auto_enroll,omitempty"`
	EKCertAllowedCAs []string `yaml:"ekcert_allowed_cas,omitempty" json:"ekcert_allowed_cas,omitempty"`
	// PCRPolicy says what becomes of a device whose PCRs are not those of its
	// baseline. An unset one is off.
	PCRPolicy PCRPolicy `yaml:"pcr_policy,omitempty" json:"pcr_policy,omitempty"`
	// PCRs are those that are compared; empty is 0 to 7, which the firmware
	// and the boot loader extend.
	PCRs []int64 `yaml:"pcrs,omitempty" json:"pcrs,omitempty"`
}

// PCRPolicy is what a change of PCRs leads to.
type PCRPolicy string

const (
	PCRPolicyUnset   PCRPolicy = ""
	PCRPolicyOff     PCRPolicy = "off"
	PCRPolicyWarn    PCRPolicy = "warn"
	PCRPolicyEnforce PCRPolicy = "enforce"
)

// Lock keeps its target out until it expires; zero Expires is never.
type Lock struct {
	Name    string
	Target  LockTarget
	Message string
	Expires time.Time
}

// LockTarget: each field that is not empty must match.
type LockTarget struct {
	User   string `yaml:"user,omitempty" json:"user,omitempty"`
	Role   string `yaml:"role,omitempty" json:"role,omitempty"`
	Login  string `yaml:"login,omitempty" json:"login,omitempty"`
	Device string `yaml:"device,omitempty" json:"device,omitempty"`
	Node   string `yaml:"node,omitempty" json:"node,omitempty"`
}
