package cli_test

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"devicetrust/cmd/internal/cli"
)

func ExampleRun() {
	newRoot := func(env *cli.Env) *cobra.Command {
		root := &cobra.Command{Use: "hello", Short: "Greet"}
		root.AddCommand(&cobra.Command{
			Use: "greet NAME", Short: "Greet somebody", Example: "  hello greet alice", Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				_, err := fmt.Fprintln(env.Stdout, "Hello,", args[0])
				return err
			},
		})
		return root
	}
	env := &cli.Env{Args: []string{"greet", "alice"}, Stdout: os.Stdout, Stderr: os.Stdout}
	fmt.Println("status", cli.Run(context.Background(), env, newRoot))
	env = &cli.Env{Args: []string{"greet"}, Stdout: os.Stdout, Stderr: os.Stdout}
	fmt.Println("status", cli.Run(context.Background(), env, newRoot))
	// Output:
	// Hello, alice
	// status 0
	// ERROR: wrong number of arguments: want hello greet NAME
	// Try 'hello greet --help'.
	// status 2
}
