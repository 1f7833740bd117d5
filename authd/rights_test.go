package authd

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
)

// narrow gives the role of that name these rights and no others.
func (r *running) narrow(kind string, verbs ...string) {
	r.t.Helper()
	doc := fmt.Sprintf(`{kind: role, version: v7, metadata: {name: narrow}, spec: {allow: {rules: [{resources: [%s], verbs: [%s]}]}}}`,
		kind, strings.Join(verbs, ", "))
	_, err := r.resources().UpdateResource(r.t.Context(), connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: "role", Resource: []byte(doc)}))
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestAMethodOfSeveralVerbsWantsEachOfThem(t *testing.T) {
	r := start(t)
	r.narrow("lock", "read")
	r.addUser("mallory", "narrow")
	client := r.https(r.login("mallory"))
	declared, err := declaredAccess()
	if err != nil {
		t.Fatal(err)
	}
	var tried []string
	for procedure, access := range declared {
		if access.GetWho() != dtv1.Access_WHO_RULE || len(access.GetVerbs()) < 2 {
			continue
		}
		tried = append(tried, procedure)
		kind := access.GetResource()
		if kind == "" {
			kind = "role" // as call asks for
		}
		for i, missing := range access.GetVerbs() {
			r.narrow(kind, slices.Delete(slices.Clone(access.GetVerbs()), i, i+1)...)
			if answer := call(t, client, r.url(), procedure); !strings.Contains(answer, "permission_denied") {
				t.Errorf("%s without the right to %s: answered %q", procedure, missing, answer)
			}
		}
		r.narrow(kind, access.GetVerbs()...)
		if answer := call(t, client, r.url(), procedure); strings.Contains(answer, "permission_denied") {
			t.Errorf("%s with all that it wants: answered %q", procedure, answer)
		}
	}
	for _, want := range []string{dtv1connect.ResourceServiceUpdateResourceProcedure, dtv1connect.DeviceServiceRegisterCurrentDeviceProcedure} {
		if !slices.Contains(tried, want) {
			t.Errorf("%s was not tried, only %q", want, tried)
		}
	}
}

// Who may change locks sends a role and calls it a lock.
func TestADocumentIsOfTheKindThatTheRightsAreFor(t *testing.T) {
	r := start(t)
	r.narrow("lock", "create", "update")
	r.addUser("mallory", "narrow")
	c := dtv1connect.NewResourceServiceClient(r.https(r.login("mallory")), r.url())
	role := func(name string) []byte {
		return fmt.Appendf(nil, `{kind: role, version: v7, metadata: {name: %s}, spec: {allow: {rules: [{resources: ["*"], verbs: ["*"]}]}}}`, name)
	}
	wantCode(t, fails(c.UpdateResource(t.Context(), connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: "lock", Resource: role("narrow")}))), connect.CodeInvalidArgument)
	wantCode(t, fails(c.CreateResource(t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "lock", Resource: role("wide")}))), connect.CodeInvalidArgument)
	res, err := r.resources().ListResources(t.Context(), connect.NewRequest(&dtv1.ListResourcesRequest{Kind: "role"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range res.Msg.GetResources() {
		if s := string(doc); strings.Contains(s, `"wide"`) || strings.Contains(s, `"narrow"`) && strings.Contains(s, `"*"`) {
			t.Errorf("she has %s", s)
		}
	}
}

// A change of roles ends the certificates, so only the store can tell another
// story than they do.
func TestACallerHasTheRolesThatTheCertificateAndTheUserShare(t *testing.T) {
	r := start(t)
	db := r.database()
	for name, test := range map[string]struct {
		atLogin []string
		now     string
		may     bool
	}{
		"lost":   {[]string{"access", "auditor"}, `["access"]`, false},
		"gained": {[]string{"access"}, `["access","auditor"]`, false},
		"kept":   {[]string{"access", "auditor"}, `["access","auditor"]`, true},
	} {
		t.Run(name, func(t *testing.T) {
			r.addUser(name, test.atLogin...)
			c := dtv1connect.NewAdminServiceClient(r.https(r.login(name)), r.url())
			column(t, db, `UPDATE users SET document = json_set(document, '$.spec.roles', json('`+test.now+`')) WHERE name = '`+name+`'`)
			err := fails(c.ListAudit(t.Context(), connect.NewRequest(&dtv1.ListAuditRequest{})))
			if !test.may {
				wantCode(t, err, connect.CodePermissionDenied)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}
