package mdm

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"devicetrust/devices"
)

// csvRecords reads RFC 4180: a header of column names, then a device a line.
func csvRecords(in io.Reader, fence *fence) iter.Seq2[devices.SyncRecord, error] {
	return func(yield func(devices.SyncRecord, error) bool) {
		r := csv.NewReader(in)
		r.ReuseRecord = true
		header, err := r.Read()
		if errors.Is(err, io.EOF) {
			err = errors.New("it is empty: want a header with os_type and asset_tag")
		}
		if err != nil {
			yield(devices.SyncRecord{}, err)
			return
		}
		columns, err := readHeader(header)
		if err != nil {
			yield(devices.SyncRecord{}, err)
			return
		}
		for line := 1; ; {
			fence.passed()
			rec, err := csvRecord(r, columns, &line)
			if err == io.EOF || !yield(rec, err) || err != nil { //nolint:errorlint // a wrapped one is not the end
				return
			}
		}
	}
}

// column puts a cell into a record.
type column func(rec *devices.SyncRecord, cell string) error

func readHeader(names []string) ([]column, error) {
	var columns []column
	seen := map[string]bool{}
	for _, name := range names {
		name = strings.TrimSpace(name)
		c := columnOf(name)
		if c == nil {
			return nil, fmt.Errorf("line 1: unknown column %.64q", name)
		}
		if seen[name] {
			return nil, fmt.Errorf("line 1: column %q is there twice", name)
		}
		seen[name] = true
		columns = append(columns, c)
	}
	for _, name := range []string{"os_type", "asset_tag"} {
		if !seen[name] {
			return nil, fmt.Errorf("line 1: column %s is missing", name)
		}
	}
	return columns, nil
}

// columnOf is nil for a name that is none.
func columnOf(name string) column {
	switch name {
	case "os_type":
		return func(rec *devices.SyncRecord, cell string) error { rec.OSType = cell; return nil }
	case "asset_tag":
		return func(rec *devices.SyncRecord, cell string) error { rec.AssetTag = cell; return nil }
	case "update_time":
		return func(rec *devices.SyncRecord, cell string) (err error) {
			if rec.Profile.UpdateTime, err = time.Parse(time.RFC3339, cell); err != nil {
				return fmt.Errorf("update_time %.64q: want a time such as 2026-01-31T18:00:00Z", cell)
			}
			return nil
		}
	case "os_usernames":
		return func(rec *devices.SyncRecord, cell string) error {
			rec.Profile.OSUsernames = strings.Fields(cell)
			return nil
		}
	}
	if field := profileFields[name]; field != nil {
		return func(rec *devices.SyncRecord, cell string) error { *field(&rec.Profile) = cell; return nil }
	}
	return nil
}

// csvRecord reads the line after line.
func csvRecord(r *csv.Reader, columns []column, line *int) (devices.SyncRecord, error) {
	cells, err := r.Read()
	if _, ok := errors.AsType[*csv.ParseError](err); ok || err == io.EOF {
		return devices.SyncRecord{}, err
	}
	if err != nil {
		return devices.SyncRecord{}, fmt.Errorf("after line %d: %w", *line, err)
	}
	*line, _ = r.FieldPos(0)
	rec := devices.SyncRecord{Place: fmt.Sprintf("line %d", *line)}
	for i, cell := range cells {
		if cell = strings.TrimSpace(cell); cell == "" {
			continue
		}
		// The reader's line is one text: a cell kept would keep all of it.
		if err := columns[i](&rec, strings.Clone(cell)); err != nil {
			return devices.SyncRecord{}, fmt.Errorf("line %d: %w", *line, err)
		}
	}
	return rec, nil
}
