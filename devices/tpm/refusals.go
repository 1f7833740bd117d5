package tpm

import (
	"errors"
	"io"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// ErrNotEnrolled: the state file knows no enrollment in the cluster.
var ErrNotEnrolled = errors.New("not enrolled")

// ErrStaleKey: the enrollment's key is not one of this TPM's. It is another
// TPM, or was given another identity (TPM2_ChangeEPS); a new enrollment heals
// it, and keeps the old state beside the new.
var ErrStaleKey = errors.New("the TPM makes another attestation key than the enrollment's")

// ErrForeignKey: the login's key is of another TPM, or of this one before its
// endorsement seed was changed. A new login heals it.
var ErrForeignKey = errors.New("the login's key is not of this TPM")

// errEarlierState: the state file is of a version that had another kind of
// attestation key. A new enrollment takes its place.
var errEarlierState = errors.New("an earlier state file")

// What a person does about a machine that is not enrolled, and one that was.
const (
	enrollHint      = "Enroll it: " + enrollWays
	enrollAgainHint = "Enroll the device again: " + enrollWays
	enrollWays      = "dtsh device enroll --current-device, or dtsh device enroll --token=TOKEN with a token of an administrator's"
)

var errBusy = api.Refuse(connect.CodeUnavailable, "the TPM is busy with another login").
	WithHint("Try again when it has ended.")

func notEnrolled(cluster string) error {
	return &refusal{
		Refusal: api.Refuse(connect.CodeFailedPrecondition, "this device is not enrolled in %s", cluster).WithHint(enrollHint),
		cause:   ErrNotEnrolled,
	}
}

func staleKey(cluster string) error {
	return &refusal{
		Refusal: api.Refuse(connect.CodeFailedPrecondition, "this is not the TPM that this device was enrolled with in %s", cluster).
			WithHint(enrollAgainHint),
		cause: ErrStaleKey,
	}
}

func earlierState() error {
	return &refusal{
		Refusal: api.Refuse(connect.CodeFailedPrecondition, "this device was enrolled by an earlier version of dtsh, with a key that is not used any more").
			WithHint(enrollAgainHint),
		cause: errEarlierState,
	}
}

const logInHint = "Log in again with: dtsh login"

func foreignKey() error {
	return &refusal{
		Refusal: api.Refuse(connect.CodeFailedPrecondition, "the login's key is of another TPM").WithHint(logInHint),
		cause:   ErrForeignKey,
	}
}

func damagedKey(cause error) error {
	return &refusal{
		Refusal: api.Refuse(connect.CodeFailedPrecondition, "what is kept of the login's key is damaged").WithHint(logInHint),
		cause:   cause,
	}
}

func unreadableState(path string, cause error) error {
	return &refusal{
		Refusal: api.Refuse(connect.CodeFailedPrecondition, "cannot read the device's enrollments in %s: %v", path, cause).
			WithHint("Move the file away and enroll the device again."),
		cause: cause,
	}
}

func forbiddenState(path string, cause error) error {
	return &refusal{
		Refusal: api.Refuse(connect.CodeFailedPrecondition, "cannot read the device's enrollments in %s: %v", path, reason(cause)).
			WithHint("Check the permissions of the file and of its folder."),
		cause: cause,
	}
}

func unwritableState(path string, cause error) error {
	return &refusal{
		Refusal: api.Refuse(connect.CodeFailedPrecondition, "cannot write the device's enrollments to %s: %v", path, reason(cause)).
			WithHint("Make room and check the permissions of the folder, then enroll the device again."),
		cause: cause,
	}
}

// fromServer gives what the server said when a stream ended. A sender only
// learns that it did (io.EOF); the receiving side has the reason.
func fromServer[T any](err error, receive func() (T, error)) error {
	if errors.Is(err, io.EOF) {
		if _, reason := receive(); reason != nil {
			err = reason
		}
	}
	return api.FromWire(err)
}
