package mdm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"os"
	"time"

	"devicetrust/devices"
)

// file reads CSV or JSON from a path or from a URL.
type file struct {
	cfg    Config
	remote *remote  // for a URL
	url    *url.URL // nil for a path
}

func openFile(cfg Config, clock Clock) (Source, error) {
	if (cfg.Path == "") == (cfg.URL == "") {
		return nil, errors.New("want either path or url")
	}
	if cfg.Path != "" {
		if cfg.BearerTokenFile != "" || cfg.CAFile != "" {
			return nil, errors.New("bearer_token_file and ca_file go with url, not with path")
		}
		return &file{cfg: cfg}, nil
	}
	u, err := serverURL("url", cfg.URL)
	if err != nil {
		return nil, err
	}
	r, err := newRemote(cfg.CAFile, clock)
	if err != nil {
		return nil, err
	}
	if cfg.BearerTokenFile != "" {
		if _, err := readSecret(cfg.BearerTokenFile); err != nil {
			return nil, fmt.Errorf("bearer_token_file: %w", err)
		}
		r.authorize = func(context.Context, bool) (string, error) {
			token, err := readSecret(cfg.BearerTokenFile)
			if err != nil {
				return "", failed("bearer_token_file: %v", err)
			}
			return token, nil
		}
	}
	return &file{cfg: cfg, remote: r, url: u}, nil
}

// Pages gives the whole file, whatever since is.
func (f *file) Pages(ctx context.Context, _ time.Time) iter.Seq2[[]devices.SyncRecord, error] {
	return func(yield func([]devices.SyncRecord, error) bool) {
		err := f.read(ctx, yield)
		if err != nil && !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	}
}

// errStopped: nobody wants more.
var errStopped = errors.New("stopped")

func (f *file) read(ctx context.Context, yield func([]devices.SyncRecord, error) bool) error {
	if f.url == nil {
		return f.readPath(ctx, yield)
	}
	// What comes so slowly that a batch takes longer than a page may is ended.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(pageTimeout, func() { cancel(failed("%s: nothing came for %v", f.url.Host, pageTimeout)) })
	defer patience.Stop()
	var readErr error
	err := f.remote.do(ctx, func(token string) (*http.Request, error) { return getRequest(ctx, f.url, token) },
		func(res *http.Response) error {
			// Once a batch was given, nothing is asked for again.
			readErr = f.parse(ctx, f.url.Host+f.url.Path, res.Body, func(page []devices.SyncRecord, err error) bool {
				patience.Stop()
				defer patience.Reset(pageTimeout)
				return yield(page, err)
			})
			return nil
		})
	err = errors.Join(err, readErr)
	if err != nil && ctx.Err() != nil && !errors.Is(err, errStopped) {
		return context.Cause(ctx)
	}
	return err
}

func (f *file) readPath(ctx context.Context, yield func([]devices.SyncRecord, error) bool) error {
	in, err := os.Open(f.cfg.Path)
	if err != nil {
		return failed("%v", plainPath(err))
	}
	defer in.Close()
	before, err := in.Stat()
	if err != nil {
		return failed("%v", err)
	}
	if !before.Mode().IsRegular() {
		return failed("%s is not a file", f.cfg.Path)
	}
	if err := f.parse(ctx, f.cfg.Path, in, yield); err != nil {
		return err
	}
	// Half of the old and half of the new is neither.
	after, err := in.Stat()
	if err != nil || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return failed("%s was changed while it was read", f.cfg.Path)
	}
	return nil
}

// parse gives batches of the records in r. What begins with [ or { is JSON.
func (f *file) parse(ctx context.Context, name string, r io.Reader, yield func([]devices.SyncRecord, error) bool) error {
	fence := &fence{r: io.LimitReader(r, maxFile+1), limit: maxRecord}
	in := bufio.NewReader(fence)
	if bom, err := in.Peek(3); err == nil && bytes.Equal(bom, []byte("\xef\xbb\xbf")) {
		_, _ = in.Discard(3) // they were peeked
	}
	first, err := firstByte(in)
	if err != nil && !errors.Is(err, io.EOF) {
		return failed("%s: %v", name, err)
	}
	records := csvRecords(in, fence)
	if first == '[' || first == '{' {
		records = jsonRecords(in, fence, first == '[')
	}
	batch := make([]devices.SyncRecord, 0, pageRecords)
	for rec, err := range records {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return failed("%s: %v", name, err)
		}
		rec.Profile = f.cfg.takenOver(rec.Profile)
		if batch = append(batch, rec); len(batch) == pageRecords {
			if !yield(batch, nil) {
				return errStopped
			}
			batch = batch[:0]
		}
	}
	if fence.read > maxFile {
		return failed("%s has more than %d bytes", name, int64(maxFile))
	}
	if len(batch) > 0 && !yield(batch, nil) {
		return errStopped
	}
	return nil
}

// firstByte is the first that is no white space, which is skipped.
func firstByte(in *bufio.Reader) (byte, error) {
	for {
		next, err := in.Peek(1)
		if err != nil {
			return 0, err
		}
		if !bytes.ContainsAny(next, " \t\r\n") {
			return next[0], nil
		}
		_, _ = in.Discard(1) // it was peeked
	}
}

// fence ends a reader at limit, which moves on with each record: parsers hold
// a whole record, and a quotation mark can make the rest of a file one.
type fence struct {
	r           io.Reader
	read, limit int64
}

var errLongRecord = fmt.Errorf("a record has more than %d bytes", maxRecord)

func (f *fence) Read(p []byte) (int, error) {
	if f.read >= f.limit {
		return 0, errLongRecord
	}
	n, err := f.r.Read(p[:min(int64(len(p)), f.limit-f.read)])
	f.read += int64(n)
	return n, err
}

// passed: all that was read belongs to records that were given, but for what
// is in buffers.
func (f *fence) passed() { f.limit = f.read + maxRecord }
