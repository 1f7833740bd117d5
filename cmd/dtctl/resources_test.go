package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"devicetrust/cmd/internal/cli"
	"devicetrust/policy"
	"devicetrust/resource"
)

const roles = `# two roles
kind: role
version: v7
metadata: {name: a}
spec: {allow: {logins: [root], node_labels: {env: [prod, test]}}}
---
kind: role
version: v7
metadata: {name: b}
spec: {options: {device_trust_mode: required}}
`

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "roles.yaml")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestEachDocumentOfAFileIsCreatedAndReported(t *testing.T) {
	c := startCluster(t)
	name := file(t, roles)
	c.prints(t, "role \"a\" has been created\nrole \"b\" has been created\n", "create", name)

	r := c.run(t, "create", name)
	want := "ERROR: " + name + ":2: role \"a\": it exists\nReplace it with: dtctl create -f FILE\n" +
		"ERROR: " + name + ":7: role \"b\": it exists\nReplace it with: dtctl create -f FILE\n"
	if r.status != 1 || r.errors != want || r.out != "" {
		t.Errorf("status %d, stderr\n%s, want\n%s", r.status, r.errors, want)
	}

	if err := os.WriteFile(name, []byte(strings.Replace(roles, "name: b", "name: c", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.prints(t, "role \"a\" has been updated\nrole \"c\" has been created\n", "create", "-f", name)
	c.prints(t, `Role Device Trust Logins Node Labels
---- ------------ ------ -------------
a                 root   env=prod|test
b    required
c    required
`, "get", "roles", "--format=text")
}

func TestAnErrorNamesItsDocumentOnce(t *testing.T) {
	c := startCluster(t)
	r := c.run(t, "create", file(t, strings.Replace(roles, "name: b", "name: held", 1)))
	if want := `:7: role "held" is held by somebody`; strings.Count(r.errors, `"held"`) != 1 || !strings.Contains(r.errors, want) {
		t.Errorf("said %q, want %q", r.errors, want)
	}
}

func TestRemovingThePreferenceResetsIt(t *testing.T) {
	c := startCluster(t)
	c.put(t, `{kind: cluster_auth_preference, version: v2, metadata: {name: cluster-auth-preference}, spec: {device_trust: {mode: required}}}`)
	c.prints(t, "cluster auth preference has been reset to its defaults\n", "rm", "cluster_auth_preference")
}

func TestAMistakeInAFileChangesNothing(t *testing.T) {
	c := startCluster(t)
	for _, wrong := range []string{
		strings.Replace(roles, "device_trust_mode", "device_trust_mood", 1),
		roles + "---\nkind: unicorn\n",
		"",
		strings.Repeat("#", maxDocument+1),
	} {
		name := file(t, wrong)
		r := c.run(t, "create", name)
		if r.status != 1 || !strings.Contains(r.errors, name) {
			t.Errorf("%+v", r)
		}
		if len(c.requests) != 0 {
			t.Fatalf("something was sent: %v", c.requests)
		}
	}
	r := c.run(t, "create", file(t, strings.Replace(roles, "device_trust_mode", "device_trust_mood", 1)))
	if !strings.Contains(r.errors, ": line 10: ") || !strings.Contains(r.errors, "device_trust_mood") {
		t.Errorf("the error does not name line and field: %s", r.errors)
	}
	if r := c.run(t, "create", "/nonexistent/x.yaml"); r.errors != "ERROR: cannot read /nonexistent/x.yaml: no such file or directory\n" {
		t.Error(r.errors)
	}
}

func TestWhatGetPrintsCreateTakes(t *testing.T) {
	c := startCluster(t)
	c.put(t, roles)
	for _, format := range []string{"yaml", "json"} {
		text := c.good(t, "get", "role/a", "--format="+format)
		c.good(t, "rm", "role/a")
		r := c.runWith(t, &cli.Env{Stdin: strings.NewReader(text)}, "create", "-")
		if r.status != 0 || r.out != "role \"a\" has been created\n" {
			t.Errorf("%+v", r)
		}
		role, ok := c.get(resource.KindRole, "a").(*resource.Role)
		if !ok || role.Spec.Allow.Logins[0] != "root" {
			t.Errorf("got back %+v", role)
		}
	}
	c.prints(t, "", "get", "locks")
	if got := strings.Count(c.good(t, "get", "roles"), "---\n"); got != 1 {
		t.Errorf("%d separators between two documents, want 1", got)
	}
}

func TestKindsMayBePluralAndThePreferenceHasNoName(t *testing.T) {
	c := startCluster(t)
	c.put(t, devices)
	c.put(t, `{kind: cluster_auth_preference, version: v2, metadata: {name: cluster-auth-preference}, spec: {device_trust: {mode: required}}}`)
	for _, ref := range []string{"cluster_auth_preference", "cluster_auth_preference/cluster-auth-preference"} {
		if out := c.good(t, "get", ref); !strings.Contains(out, "mode: required") {
			t.Errorf("%s: %s", ref, out)
		}
	}
	for _, ref := range []string{"device/" + macID, "devices/C00AA0AAAA0A"} {
		if out := c.good(t, "get", ref); !strings.Contains(out, "name: "+macID) {
			t.Errorf("%s: %s", ref, out)
		}
	}
	text, err := resource.MarshalYAML(c.get(resource.KindPreference, resource.PreferenceName))
	if err != nil {
		t.Fatal(err)
	}
	c.prints(t, "cluster auth preference has been updated\n", "create", "-f", file(t, string(text)))
	p, ok := c.get(resource.KindPreference, resource.PreferenceName).(*resource.Preference)
	if !ok || p.Spec.DeviceTrust.Mode != policy.ModeRequired {
		t.Errorf("%+v", p)
	}
}

func TestARemovedResourceIsNamed(t *testing.T) {
	c := startCluster(t)
	c.put(t, roles)
	c.prints(t, "role \"a\" has been deleted\n", "rm", "roles/a")
	if c.get(resource.KindRole, "a") != nil {
		t.Error("it is still there")
	}
}
