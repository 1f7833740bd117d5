package tpm

import (
	"context"
	"errors"
)

// CheckKey tells whether the TPM can load the key of the enrollment in cluster
// that the state file at path remembers: whether a login could prove this
// machine. The errors are those of Authenticate.
func (t *TPM) CheckKey(ctx context.Context, path, cluster string) (err error) {
	defer func() { err = fault(ctx, err) }()
	s, err := readState(path)
	if err != nil {
		return err
	}
	enrolled, ok := s.Clusters[cluster]
	if !ok {
		return notEnrolled(cluster)
	}
	defer t.hold(ctx)()
	ak, err := t.enrolledAK(enrolled)
	if errors.Is(err, errKeyGone) {
		return staleKey(cluster, err)
	}
	if err != nil {
		return err
	}
	t.flush(ak.handle.Handle)
	return nil
}
