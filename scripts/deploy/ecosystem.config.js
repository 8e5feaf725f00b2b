// PM2 process file, for machines whose other miners and validators run under PM2 already.
//
//   export LEOMA_NODE_MODEL=/srv/models/wan2.2 LEOMA_NODE_API_KEY_FILE=$HOME/.config/leoma-node/api-key
//   pm2 start scripts/deploy/ecosystem.config.js && pm2 save
//
// Settings are the LEOMA_NODE_… variables of `leoma-node serve --help`, taken from the shell that starts it;
// LEOMA_BINARY is the program, if it is not on the PATH.
// The key belongs in a file: PM2 writes the environment of its processes to ~/.pm2/dump.pm2.

const settings = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => name.startsWith('LEOMA_NODE_')),
);

if (!settings.LEOMA_NODE_MODEL && !settings.LEOMA_NODE_FAKE_ENGINE) {
  throw new Error('LEOMA_NODE_MODEL is not set; set it to the folder of the checkpoint');
}
if (settings.LEOMA_NODE_API_KEY) {
  throw new Error('LEOMA_NODE_API_KEY would be written to disk by PM2; put the key in a file and set LEOMA_NODE_API_KEY_FILE');
}

module.exports = {
  apps: [
    {
      name: 'leoma-node',
      script: process.env.LEOMA_BINARY || 'leoma-node',
      args: ['serve'],
      interpreter: 'none',
      exec_mode: 'fork',
      instances: 1,
      env: settings,
      autorestart: true,
      // 0 and 130: asked to stop. 2 and 69: a wrong option or checkpoint, or a machine that cannot do it.
      // Anything else, 75 (the GPU is lost) above all, starts it again. With the delay below, PM2 7 shows a process
      // that it will not start again as "waiting restart".
      stop_exit_codes: [0, 2, 69, 130],
      exp_backoff_restart_delay: 1000,
      // A stop signal first; longer than --drain-timeout, in which requests in flight may finish.
      kill_timeout: 45000,
      merge_logs: true,
      time: false,
    },
  ],
};
