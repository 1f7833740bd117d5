package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"devicetrust/node"
)

func ExampleParsePin() {
	_, err := node.ParsePin("sha256:1234")
	fmt.Println(err)
	// Output: CA pin "sha256:1234" is not sha256: and 64 hexadecimal digits
}

func ExampleRun() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := node.Run(ctx, node.Config{
		AuthServer: "auth.example.com:3080",
		DataDir:    "/var/lib/dtnoded",
		Listen:     "0.0.0.0:3022",
		Log:        slog.Default(),
		Now:        time.Now,
	})
	if err != nil {
		fmt.Println(err)
	}
}
