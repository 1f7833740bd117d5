package authd

import (
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
)

func TestNobodyIsGivenARoleThatDoesNotExist(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	password := goodPassword
	user := func(name string) []byte {
		return []byte(`{kind: user, version: v2, metadata: {name: ` + name + `}, spec: {roles: [ghost]}}`)
	}
	for what, call := range map[string]func() error{
		"invited": func() error {
			_, err := r.adminService().AddUser(t.Context(), connect.NewRequest(&dtv1.AddUserRequest{Name: "bob", Roles: []string{"ghost"}}))
			return err
		},
		"with a password": func() error {
			_, err := r.adminService().AddUser(t.Context(), connect.NewRequest(&dtv1.AddUserRequest{Name: "bob", Roles: []string{"ghost"}, Password: &password}))
			return err
		},
		"created": func() error {
			_, err := r.resources().CreateResource(t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "user", Resource: user("bob")}))
			return err
		},
		"updated": func() error {
			_, err := r.resources().UpdateResource(t.Context(), connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: "user", Resource: user("alice")}))
			return err
		},
	} {
		t.Run(what, func(t *testing.T) { wantCode(t, call(), connect.CodeInvalidArgument) })
	}
	if held := column(t, r.database(), `SELECT name FROM users WHERE document LIKE '%ghost%'`); len(held) > 0 {
		t.Errorf("%v have it", held)
	}
}
