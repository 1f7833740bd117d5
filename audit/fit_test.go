package audit

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/audit/event"
)

// fill sets every field of v, so that a field that is new in event.Event and
// that fit does not know shows here.
func fill(v reflect.Value, s string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1<<62 + 1)
	case reflect.Uint8:
		v.SetUint(uint64(s[0]))
	case reflect.Uint64:
		v.SetUint(1<<64 - 1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), s)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1000, 1000))
		for i := range v.Len() {
			fill(v.Index(i), s)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(testTime))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), s)
		}
	default:
		panic("event.Event has a field of a kind that is new here: " + v.Kind().String())
	}
}

func TestTheWorstEventFits(t *testing.T) {
	for _, s := range []string{"\x01", "\x00", "\xff", "é", "<", "a", `"`} {
		var e event.Event
		fill(reflect.ValueOf(&e).Elem(), strings.Repeat(s, 100_000))
		_, text, err := fit(e)
		if err != nil {
			t.Errorf("%q: %v", s, err)
		}
		if len(text) > maxRecord {
			t.Errorf("%q: %d bytes", s, len(text))
		}
	}
}

func TestAnOrdinaryEventIsNotCut(t *testing.T) {
	var e event.Event
	fill(reflect.ValueOf(&e).Elem(), strings.Repeat("a", 128))
	e.Roles, e.Reasons, e.Serials = e.Roles[:64], e.Reasons[:64], e.Serials[:64]
	got, _, err := fit(e)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAProofIsKeptWholeOrNotAtAll(t *testing.T) {
	for size, kept := range map[int]bool{maxProof: true, maxProof + 1: false} {
		k := event.Key{Policy: "hardware_key", Attestation: "digest", Public: []byte("public"), Signature: []byte("signature")}
		k.CertifyInfo = make([]byte, size-len(k.Public)-len(k.Signature))
		want := k
		if !kept {
			want.Public, want.CertifyInfo, want.Signature = nil, nil, nil
		}
		got, _, err := fit(event.Event{Type: event.DeviceAuthenticate, Key: &k})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, got.Key); diff != "" {
			t.Errorf("%d bytes (-want +got):\n%s", size, diff)
		}
	}
}

// What is recorded reads back as it was, and writes the same bytes again, so
// the hash holds for what people are shown.
func FuzzRecordedJSONRoundTrips(f *testing.F) {
	f.Add("alice", "wrong password", "rm -rf \x00 \xff é", "a\x01b", int64(0), uint64(7))
	f.Add("", "", "", "", int64(-62135596800000000), uint64(1<<63))
	f.Add(strings.Repeat("\u2028", 300), strings.Repeat("\x7f", 40_000), "<&>", "\\\"", int64(253402300799999999), uint64(0))
	f.Fuzz(func(t *testing.T, user, message, command, reason string, micros int64, serial uint64) {
		e := event.Event{
			Type: event.Exec, User: user, Message: message, Command: command, Time: time.UnixMicro(micros),
			Reasons: []string{reason, user}, Serials: []uint64{serial}, Device: &event.Device{AssetTag: command},
		}
		if y := e.Time.UTC().Year(); y < 1970 || y > 9999 {
			t.Skip("checkForeign refuses such a time, and no clock has it")
		}
		cut, text, err := fit(e)
		if err != nil {
			t.Fatal(err)
		}
		var back event.Event
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(cut, back); diff != "" {
			t.Errorf("(-stored +read):\n%s", diff)
		}
		again, err := json.Marshal(back)
		if err != nil || string(again) != string(text) {
			t.Errorf("written again: %s, want %s (%v)", again, text, err)
		}
	})
}
