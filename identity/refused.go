package identity

import (
	"errors"
	"fmt"
)

// Refused is why a certificate was not accepted: one line for people, and a
// reason for tests and metrics.
type Refused struct {
	Reason Reason
	Detail string
}

// Reason names what a certificate was refused for.
type Reason string

const (
	ReasonNotConfigured   Reason = "not-configured"    // the check itself lacks authorities, login or time
	ReasonNotACertificate Reason = "not-a-certificate" // a plain key
	ReasonWrongType       Reason = "wrong-type"        // a host's where a user's is wanted, a CA's, …
	ReasonWeakKey         Reason = "weak-key"          // DSA, RSA under 2048 bits, SHA-1, a certificate as key
	ReasonAuthority       Reason = "unknown-authority"
	ReasonSignature       Reason = "bad-signature"
	ReasonMalformed       Reason = "malformed"
	ReasonCriticalOption  Reason = "critical-option"
	ReasonNoTouch         Reason = "no-touch-required"
	ReasonSourceAddress   Reason = "source-address"
	ReasonNotYetValid     Reason = "not-yet-valid"
	ReasonExpired         Reason = "expired"
	ReasonPrincipal       Reason = "not-a-principal"
)

func (r *Refused) Error() string { return "certificate refused: " + r.Detail }

// ReasonOf is the reason in err; empty where err is no Refused.
func ReasonOf(err error) Reason {
	var r *Refused
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}

func refuse(reason Reason, format string, args ...any) *Refused {
	return &Refused{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}
