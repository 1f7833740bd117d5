package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"database/sql"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// garbage HOST:PORT|unix:PATH sends what no client of ours would, many at a time, and
// leaves it to the script to see that the daemon still serves.
func cmdGarbage(ts *testscript.TestScript, neg bool, args []string) {
	setOf(ts, neg)
	usage(ts, args, 1, "garbage HOST:PORT|unix:PATH")
	noise := make([]byte, 64<<10)
	_, _ = rand.Read(noise) // never fails
	samples := [][]byte{
		{},
		noise,
		bytes.Repeat([]byte{0}, 64<<10),
		[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		[]byte("GET /" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\n\r\n"),
		[]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"),
		[]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + string(noise)),
		// a TLS record that promises more than it brings
		append([]byte{0x16, 3, 1, 0xff, 0xff, 1, 0, 0xff, 0xff}, noise[:100]...),
		[]byte("SSH-2.0-" + strings.Repeat("x", 1<<20)),
		[]byte("SSH-1.0-old\r\n"),
		// binary packets (RFC 4253 section 6) with an impossible length
		append([]byte("SSH-2.0-garbage\r\n\xff\xff\xff\xff"), noise...),
		append([]byte("SSH-2.0-garbage\r\n\x00\x00\x00\x0c\xff\x14"), noise...),
	}
	var wg sync.WaitGroup
	for i := range 8 * len(samples) {
		wg.Go(func() { throw(ts, args[0], samples[i%len(samples)], i%2 == 0) })
	}
	wg.Wait()
}

// throw sends one sample, some of them inside of TLS, and reads until the
// other side hangs up or a second has passed.
func throw(ts *testscript.TestScript, addr string, sample []byte, inTLS bool) {
	var c net.Conn
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	c, err := net.DialTimeout(network, addr, 5*time.Second)
	if err != nil {
		return // too many at once may be refused
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if inTLS {
		t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
		if t.Handshake() == nil {
			c = t
		}
	}
	_, _ = c.Write(sample)
	_, _ = io.Copy(io.Discard, io.LimitReader(c, 1<<20))
}

// sql FILE STATEMENT changes an SQLite database behind the daemon's back.
func cmdSQL(ts *testscript.TestScript, neg bool, args []string) {
	setOf(ts, neg)
	usage(ts, args, 2, "sql FILE STATEMENT")
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	res, err := db.Exec(args[1])
	ts.Check(err)
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		ts.Fatalf("it changed nothing (%v)", fmt.Sprint(err))
	}
}
