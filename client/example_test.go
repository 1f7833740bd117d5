package client_test

import (
	"context"
	"fmt"
	"time"

	"devicetrust/client"
)

// The servers that the person who is logged in may see.
func Example() {
	profile, err := client.LoadProfile("/home/alice/.dtsh", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := client.Dial(profile, client.Options{Now: time.Now})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	nodes, err := conn.Nodes(context.Background(), map[string]string{"env": "production"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, n := range nodes {
		fmt.Println(n.Spec.Hostname, n.Spec.Addr, client.LabelText(n.Metadata.Labels))
	}
	// Output: not logged in
}
