"""Retraining as a job: a folder that holds what was asked, how far it is, and everything made on the way.

    job.py          job.toml -> Job
    folder.py       the job folder: state, progress, log, lock, cancel
    splits_book.py  which patient is in which split, for ever
    collect.py      every image decoded once; manifest
    parts.py        the images of a split as cohorts
    stages.py       the stages, each from files to files
    training.py     the stages that train
    judging.py      the stages that evaluate, judge, report and register
    run.py          runs the stages in order, resumes, waits, is cancelled
    terminal.py     what the person sees who started it
    resources.py    niceness, threads, GPU memory

`python -m training retrain JOB.toml` (docs/retraining.md). Importing `job` and `folder` loads no PyTorch.
"""
