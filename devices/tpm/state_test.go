package tpm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
)

func enrolledIn(cluster string) enrollment {
	return enrollment{
		Enrollment: Enrollment{CredentialID: "c-" + cluster, DeviceID: "d-" + cluster, AssetTag: "PF2ABCDE"},
		Unique:     []byte("unique"),
	}
}

// remember is what an enrollment does with the state file.
func remember(path, cluster string, e enrollment) error {
	r, err := reserve(path)
	if err != nil {
		return err
	}
	defer r.release()
	return r.remember(nil, cluster, e)
}

func TestAMachineRemembersItsEnrollmentsByCluster(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device", "state.json")
	for _, cluster := range []string{"a", "b"} {
		if err := remember(path, cluster, enrolledIn(cluster)); err != nil {
			t.Fatal(err)
		}
	}
	for _, cluster := range []string{"a", "b"} {
		got, err := Enrolled(path, cluster)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(enrolledIn(cluster).Enrollment, got); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := Enrolled(path, "c"); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("in a cluster that it is not enrolled in: %v", err)
	}
}

func TestNobodyElseMayReadTheStateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device", "state.json")
	for range 2 {
		if err := remember(path, "a", enrolledIn("a")); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]os.FileMode{path: 0o600, path + staleSuffix: 0o600, filepath.Dir(path): 0o700 | os.ModeDir} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) != 0 {
		t.Errorf("temporary files were left: %q", left)
	}
}

func TestAnEnrollmentThatIsReplacedIsSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	old, renewed := enrolledIn("a"), enrolledIn("a")
	renewed.DeviceID = "another"
	for _, e := range []enrollment{old, renewed} {
		if err := remember(path, "a", e); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]enrollment{path: renewed, path + staleSuffix: old} {
		got, err := Enrolled(name, "a")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Enrollment, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestAStateFileThatIsNotUnderstoodIsRefusedAndKept(t *testing.T) {
	for name, text := range map[string]string{
		"another version": `{"version": 3, "clusters": {}}`,
		"no version":      `{}`,
		"unknown key":     `{"version": 2, "clusters": {}, "secret": true}`,
		"garbage":         "\x00\x01",
		"nothing":         "",
		"half a file":     `{"version": 2, "clu`,
	} {
		path := filepath.Join(t.TempDir(), "state.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Enrolled(path, "a")
		var r *api.Refusal
		if !errors.As(err, &r) || r.Hint == "" {
			t.Errorf("%s: got %v, want a refusal with a hint", name, err)
		}
		if err := remember(path, "a", enrolledIn("a")); err == nil {
			t.Errorf("%s: it was overwritten", name)
		}
	}
}

func TestAnEnrollmentOfAnEarlierVersionIsRefusedAndReplaced(t *testing.T) {
	const earlier = `{"version": 1, "clusters": {"a": {"credential_id": "c", "device_id": "d", "asset_tag": "PF2ABCDE",
		"attestation_key": {"public": "AA==", "private": "AA==", "parent_name": "AA=="}}}}`
	path := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(path, []byte(earlier), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Enrolled(path, "a")
	isForAPerson(t, err, "enrolled by an earlier version of dtsh", "dtsh device enroll")
	if err := CanRemember(path); err != nil {
		t.Fatal(err)
	}
	if err := remember(path, "a", enrolledIn("a")); err != nil {
		t.Fatal(err)
	}
	if got, err := Enrolled(path, "a"); err != nil || got != enrolledIn("a").Enrollment {
		t.Errorf("then: %v, %v", got, err)
	}
	if kept, err := os.ReadFile(path + staleSuffix); err != nil || string(kept) != earlier {
		t.Errorf("the earlier one was not set aside: %q, %v", kept, err)
	}
}

func TestAFolderThatCannotBeIsNoticedBeforeATokenIsSpent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := reserve(filepath.Join(file, "state.json"))
	var r *api.Refusal
	if !errors.As(err, &r) || r.Hint == "" {
		t.Errorf("got %v, want a refusal with a hint", err)
	}
}

func TestAnEnrollmentThatFailsLeavesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	for _, e := range []string{"a", "a"} {
		if err := remember(path, "a", enrolledIn(e)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := reserve(path)
	if err != nil {
		t.Fatal(err)
	}
	r.release()
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 2 {
		t.Errorf("%v, %v; want the file and what was set aside before", left, err)
	}
}

func TestAFileWithoutASecondNameIsSetAsideToo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := remember(path, "a", enrolledIn("a")); err != nil {
		t.Fatal(err)
	}
	r, err := reserve(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.release()
	if err := os.Remove(r.aside); err != nil {
		t.Fatal(err)
	}
	r.aside = "" // as where there are no links
	renewed := enrolledIn("a")
	renewed.DeviceID = "another"
	if err := r.remember(nil, "a", renewed); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]enrollment{path: renewed, path + staleSuffix: enrolledIn("a")} {
		if got, err := Enrolled(name, "a"); err != nil || got != want.Enrollment {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestTwoEnrollmentsAtOnceAreBothRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	r, err := reserve(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.release()
	unlocked := false
	lock := func() func() {
		// Whoever had the lock has just written.
		if err := remember(path, "b", enrolledIn("b")); err != nil {
			t.Error(err)
		}
		return func() {
			_, err := Enrolled(path, "a")
			unlocked = err == nil
		}
	}
	if err := r.remember(lock, "a", enrolledIn("a")); err != nil {
		t.Fatal(err)
	}
	for _, cluster := range []string{"a", "b"} {
		if _, err := Enrolled(path, cluster); err != nil {
			t.Error(err)
		}
	}
	if !unlocked {
		t.Error("the lock was not held until it was written")
	}
}
