package helper

import "fmt"

// Steps that dtnoded-pam reports (node/pam/dtnoded-pam.c). The number is PAM's
// code up to PAMSession, and an errno after that.
const (
	PAMStart Step = iota + 64
	PAMAccount
	PAMCredentials
	PAMSession
	pamIdentity
	pamHome
	pamHush
	PAMExec
	PAMFork
)

// asOurs is a step of dtnoded-pam as that of a helper which does the same.
func (s Step) asOurs() Step {
	switch s {
	case pamIdentity:
		return Identity
	case pamHome:
		return Home
	case pamHush:
		return Hush
	default:
		return s
	}
}

// pamErr is in words why PAM opens no session.
func (s Step) pamErr(code uint32) error {
	what := map[Step]string{
		PAMStart: "begin", PAMAccount: "let the account in", PAMCredentials: "give the account's rights", PAMSession: "open a session",
	}[s]
	return fmt.Errorf("PAM does not %s: %s", what, pamCode(code))
}

// pamCode is a code of Linux-PAM (_pam_types.h) that account and session
// modules give.
func pamCode(code uint32) string {
	switch code {
	case 3:
		return "a module failed"
	case 4:
		return "a fault in PAM"
	case 6:
		return "permission denied"
	case 7:
		return "authentication failure"
	case 10:
		return "no such user"
	case 12:
		return "the password has to be changed first"
	case 13:
		return "the account has expired"
	case 14:
		return "a session module failed"
	case 28:
		return "a module is not there"
	}
	return fmt.Sprintf("code %d", code)
}
