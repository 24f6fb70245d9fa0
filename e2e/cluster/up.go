package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// up leaves the cluster running in the background.
func up(args []string) error {
	_, _, err := start("up", args, 0)
	return err
}

// runAttached ends the cluster when its standard input closes: that happens when the program that started it
// dies, however it dies. And when this process itself is killed, the supervisor goes with it.
func runAttached(args []string) error {
	// The parent-death signal is sent when the *thread* that started the child ends.
	runtime.LockOSThread()
	p, supervisor, err := start("run", args, syscall.SIGKILL)
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() { _, err := io.Copy(io.Discard, os.Stdin); ended <- err }()
	go func() { supervisor.Wait(); ended <- fmt.Errorf("the supervisor ended: see %s", p.path("logs")) }()
	return errors.Join(<-ended, stop(p, supervisor.Process.Pid))
}

func start(name string, args []string, parentDeath syscall.Signal) (plan, *exec.Cmd, error) {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	dir := flags.String("dir", "", "folder for everything of this cluster; made when missing")
	node := flags.Bool("node", false, "with a node, so that pods run; needs root")
	netNS := flags.String("netns", "op-e2e", "name of the network namespace to make, with --node")
	cniBin := flags.String("cni-bin", "/usr/lib/cni", "folder of the CNI plugins, with --node")
	apiPort := flags.Int("api-port", 6443, "port of the API server; 0 takes a free one")
	limit := flags.Duration("timeout", 3*time.Minute, "how long to wait until it is ready")
	flags.Parse(args)
	p, err := newPlan(*dir, *node, *netNS, *cniBin, *apiPort)
	if err != nil {
		return p, nil, err
	}
	if p.Node {
		if err := checkNodePrograms(p); err != nil {
			return p, nil, err
		}
		if err := createNetNS(p.NetNS); err != nil {
			return p, nil, err
		}
	}
	// From here on the network namespace is this cluster's own: the plan, once written, says so.
	if err := writeFiles(p); err != nil {
		return p, nil, errors.Join(err, cleanUp(p))
	}

	begin := time.Now()
	supervisor, err := startSupervisor(p, parentDeath)
	if err != nil {
		return p, nil, errors.Join(err, cleanUp(p))
	}
	if err := waitUntilUp(p, supervisor, *limit); err != nil {
		return p, nil, errors.Join(err, stop(p, supervisor.Process.Pid))
	}
	times, _ := os.ReadFile(p.readyFile())
	fmt.Printf("ready after %.1f s: %s", time.Since(begin).Seconds(), times)
	fmt.Printf("kubeconfig: %s\n", p.kubeconfig("admin"))
	return p, supervisor, nil
}

// newPlan decides on names and ports, after it has removed what a cluster that died has left in the folder.
func newPlan(dir string, node bool, netNS, cniBin string, apiPort int) (plan, error) {
	if dir == "" {
		return plan{}, errors.New("--dir is missing")
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return plan{}, err
	}
	if pid, running := supervisorOf(absolute); running {
		return plan{}, fmt.Errorf("a cluster runs in this folder already (process %d): take it down first", pid)
	}
	if old, err := loadPlan(absolute); err == nil {
		if err := cleanUp(old); err != nil {
			return plan{}, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return plan{}, err
	}
	p := plan{Dir: absolute, Node: node, APIAddress: "127.0.0.1", APIPort: apiPort, CNIBin: cniBin, Bin: filepath.Dir(self)}
	if p.Node {
		p.NetNS, p.APIAddress = netNS, nodeAddress
	}
	for _, port := range []*int{&p.APIPort, &p.EtcdPort, &p.PeerPort} {
		if *port != 0 {
			continue
		}
		if *port, err = freePort(); err != nil {
			return plan{}, err
		}
	}
	return p, nil
}

func writeFiles(p plan) error {
	if err := os.RemoveAll(p.path("logs")); err != nil { // of the cluster before this one
		return err
	}
	for _, folder := range []string{"logs", "etc/cni"} {
		if err := os.MkdirAll(p.path(folder), 0o755); err != nil {
			return err
		}
	}
	for name, text := range nodeConfigFiles(p) {
		if err := os.WriteFile(p.path("etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := writePKI(p); err != nil {
		return err
	}
	return p.save()
}

// checkNodePrograms names what has to be installed first, all at once.
func checkNodePrograms(p plan) error {
	var missing []string
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "ip", "nft", "conntrack",
		filepath.Join(p.CNIBin, "ptp"), filepath.Join(p.CNIBin, "portmap"), filepath.Join(p.CNIBin, "host-local"),
		filepath.Join(p.CNIBin, "loopback"), filepath.Join(p.Bin, "pause"), filepath.Join(p.Bin, "coredns")} {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return fmt.Errorf("missing programs: %s", strings.Join(missing, ", "))
	}
	return nil
}

func startSupervisor(p plan, parentDeath syscall.Signal) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(p.logFile("supervisor"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := exec.Command(self, "supervise", "--dir", p.Dir)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: parentDeath}
	if p.Node {
		command.SysProcAttr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID
		if err := enterNetNS(p.NetNS); err != nil {
			return nil, err
		}
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	return command, os.WriteFile(p.pidFile(), []byte(strconv.Itoa(command.Process.Pid)), 0o644)
}

func waitUntilUp(p plan, supervisor *exec.Cmd, limit time.Duration) error {
	timeout := time.After(limit)
	for {
		if _, err := os.Stat(p.readyFile()); err == nil {
			return nil
		}
		if !alive(supervisor.Process.Pid) {
			text, _ := os.ReadFile(p.logFile("supervisor"))
			return fmt.Errorf("the supervisor ended: %s", text)
		}
		select {
		case <-timeout:
			return fmt.Errorf("not ready within %s: see %s", limit, p.path("logs"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func down(args []string) error {
	p, _, err := planFromFlags("down", args)
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing was started there, or all is down already
	}
	if err != nil {
		return err
	}
	pid, running := supervisorOf(p.Dir)
	if !running {
		pid = 0
	}
	return stop(p, pid)
}

// stop ends the supervisor, and with it everything it started, then removes what a process leaves.
func stop(p plan, supervisor int) error {
	if supervisor != 0 {
		syscall.Kill(supervisor, syscall.SIGTERM)
		for i := 0; i < 200 && alive(supervisor); i++ {
			if i == 100 {
				syscall.Kill(supervisor, syscall.SIGKILL)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return cleanUp(p)
}

func cleanUp(p plan) error {
	var problems []error
	if p.Node {
		problems = append(problems, deleteNetNS(p.NetNS), removeCgroups(p.cgroup()))
	}
	// By name, since DIR may hold files of others. The logs stay, to tell why a test failed; the
	// plan goes last, and only when all went well, so that `down` can be repeated.
	for _, name := range []string{"etc", "etcd", "node", "pki", "pause.tar", "ready.json", "supervisor.pid"} {
		problems = append(problems, os.RemoveAll(p.path(name)))
	}
	for _, user := range kubeconfigUsers {
		problems = append(problems, os.RemoveAll(p.kubeconfig(user.file)))
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	return os.RemoveAll(p.path("plan.json"))
}

// execInCluster becomes the given command, in the cluster's network namespace if it has one.
func execInCluster(args []string) error {
	p, command, err := planFromFlags("exec", args)
	if err != nil {
		return err
	}
	if len(command) == 0 {
		return errors.New("no command given")
	}
	file, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	if p.Node {
		if err := enterNetNS(p.NetNS); err != nil {
			return err
		}
	}
	os.Setenv("KUBECONFIG", p.kubeconfig("admin"))
	return syscall.Exec(file, command, os.Environ())
}

func planFromFlags(name string, args []string) (plan, []string, error) {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	dir := flags.String("dir", "", "folder of the cluster")
	flags.Parse(args)
	p, err := loadPlan(*dir)
	return p, flags.Args(), err
}

// supervisorOf finds the running supervisor of a folder. A process id alone may have been given to
// another process since.
func supervisorOf(dir string) (int, bool) {
	text, err := os.ReadFile(plan{Dir: dir}.pidFile())
	if err != nil {
		return 0, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, false
	}
	commandLine, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return pid, err == nil && strings.Contains(string(commandLine), "supervise\x00--dir\x00"+dir+"\x00")
}

// alive tells whether a process runs: a zombie, which its parent has yet to collect, does not.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(state, "Z")
}
