package tpm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// stateVersion is of the state file; another one is refused.
const stateVersion = 1

// staleSuffix is of the file that keeps the enrollments before the last one.
const staleSuffix = ".stale"

// state is the file that remembers a machine's enrollments. The keys in it are
// encrypted by the TPM and of no use to another.
type state struct {
	Version int `json:"version"`
	// Clusters by name: a machine may be enrolled in several, with a key for
	// each, so that no cluster can have one sign for another.
	Clusters map[string]enrollment `json:"clusters"`
}

type enrollment struct {
	Enrollment
	Key savedKey `json:"attestation_key"`
}

// Enrollment is what a machine knows of its enrollment in a cluster.
type Enrollment struct {
	CredentialID string `json:"credential_id"`
	DeviceID     string `json:"device_id"`
	AssetTag     string `json:"asset_tag"`
}

// savedKey is what TPM2_Load wants.
type savedKey struct {
	Public     []byte `json:"public"`  // TPMT_PUBLIC
	Private    []byte `json:"private"` // encrypted under the parent
	ParentName []byte `json:"parent_name"`
}

// Enrolled tells what the state file at path knows of the enrollment in
// cluster, without asking the TPM; ErrNotEnrolled where it knows none.
func Enrolled(path, cluster string) (Enrollment, error) {
	s, err := readState(path)
	if err != nil {
		return Enrollment{}, err
	}
	e, ok := s.Clusters[cluster]
	if !ok {
		return Enrollment{}, notEnrolled(cluster)
	}
	return e.Enrollment, nil
}

func readState(path string) (state, error) {
	empty := state{Version: stateVersion, Clusters: map[string]enrollment{}}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("tpm: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return state{}, fmt.Errorf("tpm: read %s: %w", path, err)
	}
	s := state{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return state{}, unreadableState(path, err)
	}
	if s.Version != stateVersion {
		return state{}, unreadableState(path, fmt.Errorf("it has version %d, this program knows %d", s.Version, stateVersion))
	}
	if s.Clusters == nil {
		return empty, nil
	}
	return s, nil
}

// canRemember tells before an enrollment whether remember would fail after it,
// by writing the file as it is.
func canRemember(path string) error {
	s, err := readState(path)
	if err != nil {
		return err
	}
	return writeState(path, s)
}

// remember writes the enrollment of cluster into the file. The file as it was
// is set aside where that replaces an enrollment.
func remember(path, cluster string, e enrollment) error {
	s, err := readState(path)
	if err != nil {
		return err
	}
	if _, replaces := s.Clusters[cluster]; replaces {
		if err := writeState(path+staleSuffix, s); err != nil {
			return err
		}
	}
	s.Clusters[cluster] = e
	return writeState(path, s)
}

// writeState replaces the file as a whole: after a power cut there is either
// the old one or the new one.
func writeState(path string, s state) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("tpm: cannot remember the enrollment: %w", err)
		}
	}()
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is none
	_, err = f.Write(append(data, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}
