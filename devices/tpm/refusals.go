package tpm

import (
	"errors"
	"io"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// ErrNotEnrolled: the state file knows no enrollment in the cluster.
var ErrNotEnrolled = errors.New("not enrolled")

// ErrStaleKey: the enrollment's key is not of this TPM as it is now. The TPM
// was cleared, or is another one; a new enrollment heals it, and keeps the old
// state beside the new.
var ErrStaleKey = errors.New("the TPM cannot load the enrollment's key")

// enrollHint is what a person does about a machine that is not enrolled.
const enrollHint = "Enroll it: dtsh device enroll --current-device, or dtsh device enroll --token=TOKEN with a token of an administrator's"

func notEnrolled(cluster string) error {
	return &refusal{
		Refusal: api.Refuse(connect.CodeFailedPrecondition, "this device is not enrolled in %s", cluster).WithHint(enrollHint),
		cause:   ErrNotEnrolled,
	}
}

func staleKey(cluster string, cause error) error {
	return &refusal{
		Refusal: api.Refuse(connect.CodeFailedPrecondition, "the TPM does not know this device's enrollment in %s any more: it was cleared, or it is another TPM", cluster).
			WithHint("Enroll the device again: dtsh device enroll --current-device, or dtsh device enroll --token=TOKEN with a token of an administrator's"),
		cause: errors.Join(ErrStaleKey, cause),
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
