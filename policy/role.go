package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Role is a checked role; only NewRole makes one that grants anything. It
// never changes and may be shared.
type Role struct{ *role }

// role holds what deciding needs, with all texts ready.
type role struct {
	name        string
	limits      Limits
	forwards    forwards
	allow, deny conditions
	demands     demands
	evidence    *evidenceDemands // nil: none
	key         *keyDemand       // nil: none
	locking     locking
	granted     string // the reason of an allow
	rules       int    // the most that it adds to Decision.Rules about a session or a call
}

// conditions is a checked allow or deny block.
type conditions struct {
	logins logins
	labels labels
	rules  apiRules
}

// Name is the role's name; the zero Role has none.
func (r Role) Name() string {
	if r.role == nil {
		return ""
	}
	return r.name
}

// FieldError says which field of a role is wrong. Field is its place in the
// spec: options.device_trust_mode.
type FieldError struct{ Field, Problem string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

func fieldError(field, format string, args ...any) error {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

// nameLetters are those of roles and locks.
const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// CheckName refuses what cannot name a role or a lock: anything but 1 to 64
// of a-z A-Z 0-9 . _ -
func CheckName(name string) error {
	if name == "" || len(name) > maxName || strings.Trim(name, nameLetters) != "" {
		return fmt.Errorf("name %.80q must be 1 to %d of a-z A-Z 0-9 . _ -", name, maxName)
	}
	return nil
}

// NewRole checks spec and makes it ready to decide by. What it cannot hold to
// is an error (*FieldError where a field is at fault): unknown modes, kinds,
// verbs and variables, patterns in labels, lengths of time that are not
// longer than nothing, evidence that nobody can give, targets that are none. It does not know the form
// of logins, which is identity's; resource checks that.
func NewRole(name string, spec RoleSpec) (Role, error) {
	if err := CheckName(name); err != nil {
		return Role{}, err
	}
	r := &role{name: name, granted: "granted by role " + strconv.Quote(name)}
	r.demands = newDemands(source(name, "options.device_trust_mode"), spec.Options.DeviceTrustMode)
	r.locking = newLocking(source(name, "options.lock"), "role "+strconv.Quote(name)+" (lock: strict)", spec.Options.Lock)
	var err error
	if r.limits, err = newLimits(spec.Options); err != nil {
		return Role{}, err
	}
	if r.forwards, err = newForwards(name, spec.Options); err != nil {
		return Role{}, err
	}
	if r.evidence, err = newEvidenceDemands(name, spec.Options.DeviceEvidence); err != nil {
		return Role{}, err
	}
	r.key = newKeyDemand(name, spec.Options.RequireAttestedKey)
	if r.allow, err = newConditions(RuleAllow, name, "allow", spec.Allow); err != nil {
		return Role{}, err
	}
	if r.deny, err = newConditions(RuleDeny, name, "deny", spec.Deny); err != nil {
		return Role{}, err
	}
	r.rules = r.countRules()
	return Role{r}, nil
}

// countRules: one for the allow block, and one for each part of the deny
// block, for the mode, for the evidence and for the key where there are such.
func (r *role) countRules() int {
	n := 1
	for _, silent := range []bool{r.demands.mode == ModeUnset, r.evidence == nil, r.key == nil, r.deny.labels.none(), r.deny.logins.none(), len(r.deny.rules.rules) == 0} {
		if !silent {
			n++
		}
	}
	return n
}

func source(name, field string) string { return "role " + strconv.Quote(name) + " " + field }

func newConditions(effect RuleEffect, name, block string, spec RoleConditions) (c conditions, err error) {
	field := block + ".logins"
	if c.logins, err = newLogins(effect, source(name, field), field, spec.Logins); err != nil {
		return conditions{}, err
	}
	field = block + ".node_labels"
	if c.labels, err = newLabels(effect, source(name, field), field, spec.NodeLabels); err != nil {
		return conditions{}, err
	}
	field = block + ".rules"
	c.rules, err = newRules(effect, source(name, field), field, spec.Rules)
	return c, err
}

// newLimits checks options and says what they do to a session. A permission
// that is not there is not given.
func newLimits(o RoleOptions) (Limits, error) {
	if err := CheckMode(o.DeviceTrustMode); err != nil {
		return Limits{}, fieldError("options.device_trust_mode", "%v", err)
	}
	if o.MaxSessionTTL < 0 || time.Duration(o.MaxSessionTTL) > maxTTL {
		return Limits{}, fieldError("options.max_session_ttl", "%s is not between nothing and %s", o.MaxSessionTTL, maxTTL)
	}
	if o.ClientIdleTimeout < 0 {
		return Limits{}, fieldError("options.client_idle_timeout", "%s is not longer than nothing", o.ClientIdleTimeout)
	}
	if o.MaxSessions < 0 {
		return Limits{}, fieldError("options.max_sessions", "%d is less than nothing", o.MaxSessions)
	}
	if err := CheckLockingMode(o.Lock); err != nil {
		return Limits{}, fieldError("options.lock", "%v", err)
	}
	switch o.Audit {
	case "", auditStrict, auditBestEffort:
	default:
		return Limits{}, fieldError("options.audit", "%.64q is neither strict nor best_effort", o.Audit)
	}
	return Limits{
		MaxSessionTTL:         time.Duration(o.MaxSessionTTL),
		IdleTimeout:           time.Duration(o.ClientIdleTimeout),
		MaxSessions:           o.MaxSessions,
		PortForwarding:        isTrue(o.PortForwarding),
		AgentForwarding:       isTrue(o.ForwardAgent),
		X11Forwarding:         isTrue(o.PermitX11Forwarding),
		DisconnectExpiredCert: isTrue(o.DisconnectExpiredCert),
		PinSourceIP:           isTrue(o.PinSourceIP),
		AttestedKey:           isTrue(o.RequireAttestedKey),
		BestEffortAudit:       o.Audit == auditBestEffort,
	}, nil
}

const (
	auditStrict     = "strict"
	auditBestEffort = "best_effort"
)

func isTrue(b *bool) bool { return b != nil && *b }
