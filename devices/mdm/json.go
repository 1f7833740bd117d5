package mdm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"
	"strings"
	"time"

	"devicetrust/devices"
	"devicetrust/resource"
)

// jsonRecord has the keys that CSV has as columns.
type jsonRecord struct {
	OSType   string `json:"os_type"`
	AssetTag string `json:"asset_tag"` // in place of the profile's
	resource.DeviceProfile
}

// jsonRecords reads an array of objects, or objects one after another.
func jsonRecords(in io.Reader, fence *fence, array bool) iter.Seq2[devices.SyncRecord, error] {
	return func(yield func(devices.SyncRecord, error) bool) {
		d := json.NewDecoder(in)
		d.DisallowUnknownFields()
		if array {
			if _, err := d.Token(); err != nil { // the bracket
				yield(devices.SyncRecord{}, plainJSON(err))
				return
			}
		}
		for n := 1; ; n++ {
			fence.passed()
			if array && !d.More() {
				if err := endOfArray(d); err != nil {
					yield(devices.SyncRecord{}, fmt.Errorf("after record %d: %w", n-1, plainJSON(err)))
				}
				return
			}
			var j jsonRecord
			err := d.Decode(&j)
			if err == io.EOF {
				if !array {
					return
				}
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				yield(devices.SyncRecord{}, fmt.Errorf("record %d: %w", n, plainJSON(err)))
				return
			}
			rec := devices.SyncRecord{OSType: j.OSType, AssetTag: j.AssetTag, Profile: j.DeviceProfile, Place: fmt.Sprintf("record %d", n)}
			if !yield(rec, nil) {
				return
			}
		}
	}
}

// endOfArray wants the closing bracket, and nothing behind it: what breaks off
// between two objects has neither.
func endOfArray(d *json.Decoder) error {
	if _, err := d.Token(); errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	} else if err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind the array")
	}
	return nil
}

var errBreaksOff = errors.New("it breaks off")

// plainJSON says what is wrong and what is wanted, without the words of Go.
func plainJSON(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errBreaksOff
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		field := e.Field[strings.LastIndex(e.Field, ".")+1:] // without the struct's name
		switch {
		case field == "":
			return fmt.Errorf("want an object with os_type and asset_tag, and not a %s", e.Value)
		case field == "os_usernames" && e.Type.Kind() == reflect.Slice:
			return fmt.Errorf("%s: want a list of texts, and not a %s", field, e.Value)
		}
		return fmt.Errorf("%s: want a text, and not a %s", field, e.Value)
	}
	if _, ok := errors.AsType[*time.ParseError](err); ok || strings.HasPrefix(err.Error(), "Time.UnmarshalJSON") {
		return errors.New("update_time: want a time such as 2026-01-31T18:00:00Z")
	}
	if text, ok := strings.CutPrefix(err.Error(), "json: "); ok {
		return errors.New(text)
	}
	return err
}
