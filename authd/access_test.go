package authd

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"devicetrust/api/dtv1"
)

func TestAMethodWithoutADeclarationStopsTheProgram(t *testing.T) {
	for name, access := range map[string]*dtv1.Access{
		"none":               nil,
		"nobody":             {},
		"a rule of no verbs": {Who: dtv1.Access_WHO_RULE, Resource: "user"},
	} {
		if err := checkDeclaration("/dt.v1.X/Y", access, access != nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := checkDeclaration("/dt.v1.X/Y", &dtv1.Access{Who: dtv1.Access_WHO_NODE}, true); err != nil {
		t.Error(err)
	}
}

// Every method, by reflection, as each kind of caller that may not call it.
func TestEveryMethodRefusesWhoMayNotCallIt(t *testing.T) {
	r := start(t)
	r.addUser("nobody", "access")
	callers := map[string]*http.Client{
		"anonymous": r.https(nil),
		"user":      r.https(r.login("nobody")),
		"node":      r.https(r.join("node-1")),
	}
	declared, err := declaredAccess()
	if err != nil {
		t.Fatal(err)
	}
	if len(declared) < 20 {
		t.Fatalf("only %d methods found", len(declared))
	}
	for procedure, access := range declared {
		for who, client := range callers {
			if mayCall(who, access.GetWho()) {
				continue
			}
			t.Run(strings.TrimPrefix(procedure, "/dt.v1.")+" as "+who, func(t *testing.T) {
				want := "permission_denied"
				if who == "anonymous" && access.GetWho() != dtv1.Access_WHO_NODE {
					want = "unauthenticated"
				}
				if answer := call(t, client, r.url(), procedure); !strings.Contains(answer, want) {
					t.Errorf("answered %q, want %s", answer, want)
				}
			})
		}
	}
}

func mayCall(who string, access dtv1.Access_Who) bool {
	switch access {
	case dtv1.Access_WHO_ANYONE:
		return true
	case dtv1.Access_WHO_USER:
		return who == "user"
	case dtv1.Access_WHO_NODE:
		return who == "node"
	case dtv1.Access_WHO_RULE, dtv1.Access_WHO_UNSPECIFIED:
	}
	return false
}

// call sends an empty message, with a kind where the method wants one, in the
// way that the method's shape asks for.
func call(t *testing.T, c *http.Client, url, procedure string) string {
	t.Helper()
	body := []byte(`{}`)
	m := methodOf(t, procedure)
	if m.Input().Fields().ByName("kind") != nil {
		body = []byte(`{"kind":"role"}`)
	}
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		_, answer := post(t, c, url+procedure, "application/json", body)
		return answer
	}
	var framed bytes.Buffer
	framed.WriteByte(0)
	if err := binary.Write(&framed, binary.BigEndian, uint32(len(body))); err != nil {
		t.Fatal(err)
	}
	framed.Write(body)
	_, answer := post(t, c, url+procedure, "application/connect+json", framed.Bytes())
	return answer
}

func methodOf(t *testing.T, procedure string) protoreflect.MethodDescriptor {
	t.Helper()
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(procedure, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return d.(protoreflect.MethodDescriptor)
}
