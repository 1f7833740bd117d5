package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/client"
	"devicetrust/resource"
)

// A message of many devices has at most so many bytes of them, a quarter of
// what the server reads in one.
const maxSent = 256 << 10

// split takes the devices out where there are several.
func split(docs []document) (fleet, rest []document) {
	for _, d := range docs {
		if d.Head().Kind == resource.KindDevice {
			fleet = append(fleet, d)
		} else {
			rest = append(rest, d)
		}
	}
	if len(fleet) < 2 {
		return nil, docs
	}
	return fleet, rest
}

// createDevices registers all of docs, or none.
func (a *app) createDevices(ctx context.Context, services client.Services, docs []document, force bool) error {
	stream := services.Device.CreateDevices(ctx)
	batch, size := &dtv1.CreateDevicesRequest{Replace: force}, 0
	for n, d := range docs {
		d.Head().Metadata.Revision = "" // of what get printed; it means nothing here
		doc, err := resource.MarshalJSON(d.Resource)
		if err != nil {
			return err
		}
		batch.Devices, size = append(batch.Devices, doc), size+len(doc)
		if size < maxSent && n+1 < len(docs) {
			continue
		}
		if stream.Send(batch) != nil {
			break // the answer says why
		}
		a.Progress("%s of %s sent", thousands(int64(n+1)), counted(int64(len(docs)), "device"))
		batch, size = &dtv1.CreateDevicesRequest{Replace: force}, 0
	}
	resp, err := stream.CloseAndReceive()
	if err != nil {
		err = client.Explain(services.Address, err)
		if r, ok := errors.AsType[*api.Refusal](err); ok && r.Code == connect.CodeAlreadyExists {
			return r.WithHint("Replace what exists with: dtctl create -f FILE")
		}
		return err
	}
	var done []string
	for _, one := range []struct {
		n    int64
		what string
	}{{resp.Msg.GetCreated(), "created"}, {resp.Msg.GetUpdated(), "updated"}} {
		if one.n > 0 {
			done = append(done, fmt.Sprintf("%s %s been %s", counted(one.n, "device"), hasOrHave(one.n), one.what))
		}
	}
	return a.say("%s", strings.Join(done, "\n"))
}

func hasOrHave(n int64) string {
	if n == 1 {
		return "has"
	}
	return "have"
}

// counted is n things in words: "1 device", "20,000 devices".
func counted(n int64, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return thousands(n) + " " + thing
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
