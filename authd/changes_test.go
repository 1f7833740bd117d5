package authd

import (
	"encoding/json"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
)

func TestARecordOfAChangeSaysWhatChanged(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	update := func(kind, doc string) {
		t.Helper()
		if _, err := r.resources().UpdateResource(t.Context(), connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: kind, Resource: []byte(doc)})); err != nil {
			t.Fatal(err)
		}
	}
	last := func(kind event.Type) []string {
		t.Helper()
		res, err := r.adminService().ListAudit(t.Context(), connect.NewRequest(&dtv1.ListAuditRequest{Type: string(kind)}))
		if err != nil {
			t.Fatal(err)
		}
		all := res.Msg.GetEvents()
		var e event.Event
		if err := json.Unmarshal(all[len(all)-1], &e); err != nil {
			t.Fatal(err)
		}
		return e.Reasons
	}
	ca, err := json.Marshal(makerCA(t))
	if err != nil {
		t.Fatal(err)
	}
	user := `{kind: user, version: v2, metadata: {name: alice}, spec: `
	preference := `{"kind":"cluster_auth_preference","version":"v2","metadata":{"name":"cluster-auth-preference"},"spec":{"device_trust":`
	for _, step := range []struct {
		kind, doc string
		event     event.Type
		want      []string
	}{
		{"user", user + `{roles: [access, auditor], traits: {logins: [root, postgres], team: [a]}}}`, event.UserUpdate,
			[]string{"roles: access → access,auditor", "logins: root → root,postgres", "trait team"}},
		{"user", user + `{roles: [access, auditor], traits: {logins: [root, postgres], team: [a]}}}`, event.UserUpdate, nil},
		{"user", user + `{roles: [access, auditor], traits: {team: [a]}}}`, event.UserUpdate,
			[]string{"logins: root,postgres → "}},
		{"cluster_auth_preference", preference + `{"mode":"off","auto_enroll":true,"ekcert_allowed_cas":[` + string(ca) + `]}}}`, event.PreferenceUpdate,
			[]string{"mode: optional → off", "auto_enroll: false → true", "ekcert_allowed_cas: 0 → 1"}},
	} {
		update(step.kind, step.doc)
		if diff := cmp.Diff(step.want, last(step.event)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.doc, diff)
		}
	}
	lock := `{kind: lock, version: v2, metadata: {name: l1}, spec: {target: {user: alice, node: web-1}, message: on leave, expires: "2100-01-02T03:04:05Z"}}`
	whom := []string{`target: user "alice", node "web-1"`, "message: on leave", "expires: 2100-01-02T03:04:05Z"}
	update("lock", lock)
	update("lock", lock)
	if _, err := r.resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "lock", Name: "l1"})); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []event.Type{event.LockCreate, event.LockUpdate, event.LockDelete} {
		if diff := cmp.Diff(whom, last(kind)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
	}
	other, err := json.Marshal(makerCA(t))
	if err != nil {
		t.Fatal(err)
	}
	update("cluster_auth_preference", preference+`{"mode":"off","auto_enroll":true,"ekcert_allowed_cas":[`+string(other)+`]}}}`)
	if diff := cmp.Diff([]string{"ekcert_allowed_cas: others, as many"}, last(event.PreferenceUpdate)); diff != "" {
		t.Errorf("another CA (-want +got):\n%s", diff)
	}
	update("cluster_auth_preference", preference+`{"mode":"off","auto_enroll":true,"ekcert_allowed_cas":[`+string(other)+`]},"locking_mode":"strict","staleness_limit":"10m"}}`)
	if diff := cmp.Diff([]string{"locking_mode: the default → strict", "staleness_limit: the default → 10m0s"}, last(event.PreferenceUpdate)); diff != "" {
		t.Errorf("locking (-want +got):\n%s", diff)
	}
	if _, err := r.resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "cluster_auth_preference", Name: "cluster-auth-preference"})); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"mode: off → optional", "auto_enroll: true → false", "ekcert_allowed_cas: 1 → 0", "locking_mode: strict → the default", "staleness_limit: 10m0s → the default"}, last(event.PreferenceUpdate)); diff != "" {
		t.Errorf("back to the default (-want +got):\n%s", diff)
	}
}
