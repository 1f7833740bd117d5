package authd

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"devicetrust/store/storetest"
)

// odd fills a message as no client of ours does.
type odd struct {
	text  string
	bytes []byte
	// number goes into every field that holds it.
	number int64
	// depth of messages within messages.
	depth int
}

var odds = map[string]odd{
	"nothing set":       {},
	"empty messages":    {depth: 3},
	"a NUL":             {depth: 3, text: "\x00", bytes: []byte{0}, number: -1},
	"extremes":          {depth: 3, text: strings.Repeat("é", 40_000), bytes: bytes.Repeat([]byte{0xff}, 80_000), number: math.MaxInt64},
	"the other extreme": {depth: 3, text: "\u202e\x1b[2J", bytes: []byte("{}"), number: math.MinInt64},
}

func (o odd) fill(m protoreflect.Message, depth int) {
	if depth == 0 {
		return
	}
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		switch {
		case f.Name() == "kind":
			m.Set(f, protoreflect.ValueOfString("role"))
		case f.IsMap():
			m.Mutable(f).Map().Set(protoreflect.ValueOfString(o.text).MapKey(), o.scalar(f.MapValue()))
		case f.IsList() && f.Message() != nil:
			o.fill(m.Mutable(f).List().AppendMutable().Message(), depth-1)
		case f.IsList():
			m.Mutable(f).List().Append(o.scalar(f))
		case f.Message() != nil:
			o.fill(m.Mutable(f).Message(), depth-1)
		default:
			m.Set(f, o.scalar(f))
		}
	}
}

func (o odd) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(o.text)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(o.bytes)
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(o.number != 0)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(o.number))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(o.number)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(o.number))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(o.number))
	default:
		panic("a kind of field that the API did not have: " + f.Kind().String())
	}
}

// Every method, by reflection, as a caller who may call it.
func TestOddMessagesAreAnsweredAndNothingPanics(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { sendOddMessages(t, start(t)) })
	t.Run("postgres", func(t *testing.T) { sendOddMessages(t, startAt(t, dataDir(t), storetest.PostgresURL(t))) })
}

func sendOddMessages(t *testing.T, r *running) {
	r.addUser("chief", "access", "editor", "auditor", "device-admin")
	callers := map[string]*http.Client{"user": r.https(r.login("chief")), "node": r.https(r.join("node-1")), "admin": r.admin}
	declared, err := declaredAccess()
	if err != nil {
		t.Fatal(err)
	}
	for procedure := range declared {
		if strings.HasSuffix(procedure, "/Logout") || strings.HasSuffix(procedure, "/Follow") {
			continue // ends the caller; does not end
		}
		m := methodOf(t, procedure)
		kind, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
		if err != nil {
			t.Fatal(err)
		}
		for name, o := range odds {
			msg := kind.New()
			o.fill(msg, o.depth)
			body, err := proto.Marshal(msg.Interface())
			if err != nil {
				t.Fatal(err)
			}
			for who, client := range callers {
				url, contentType, sent := r.url(), "application/proto", body
				if who == "admin" {
					url = "http://admin"
				}
				if m.IsStreamingClient() {
					contentType, sent = "application/connect+proto", framed(t, body)
				}
				_, answer := post(t, client, url+procedure, contentType, sent)
				if strings.Contains(answer, `"internal"`) {
					t.Errorf("%s with %s as %s: %q", procedure, name, who, answer)
				}
			}
		}
	}
	if log := r.log.String(); strings.Contains(log, "panicked") || strings.Contains(log, "internal error") {
		t.Errorf("the log has %s", log)
	}
}

// framed is a message in a Connect stream.
func framed(t *testing.T, body []byte) []byte {
	t.Helper()
	out := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body)))
	return append(out, body...)
}
