package tpm

import "context"

// CheckKey tells whether the TPM can make the key of the enrollment in cluster
// that the state file at path remembers: whether a login could prove this
// machine. The errors are those of Authenticate.
func (t *TPM) CheckKey(ctx context.Context, path, cluster string) (err error) {
	defer func() { err = fault(ctx, err) }()
	enrolled, err := remembered(path, cluster)
	if err != nil {
		return err
	}
	release, err := t.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	ak, err := t.enrolledAK(cluster, enrolled)
	if err != nil {
		return err
	}
	t.flush(ak.handle.Handle)
	return nil
}
